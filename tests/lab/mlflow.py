"""MLflow's server on PostgreSQL and S3, a process of the node; in the cluster Service `mlflow` of isotherm-lab."""

from __future__ import annotations

import sys
from base64 import urlsafe_b64encode

from lab import daemons, secrets, storage
from lab.dns import external
from lab.part import NODE_IP, Lab, Part

PORT = 5000
URL = f"http://{NODE_IP}:{PORT}"
# Its host check refuses all but these; programs call it `mlflow:5000` in their own namespace.
HOSTS = f"{NODE_IP}:{PORT},localhost:{PORT},mlflow:{PORT},mlflow.*"


def server(port: int, artifacts: str, hosts: str, database: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a server on the node: one worker; clients send artifacts through the server, so no
    Task holds S3 keys for MLflow.
    """
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", NODE_IP, "--port", str(port), "--workers", "1",
        "--serve-artifacts", "--artifacts-destination", artifacts, "--allowed-hosts", hosts,
    ]  # fmt: skip
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database,  # it may carry a password: not on the command line
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return command, environment


def start(lab: Lab) -> None:
    """MLflow, and its Service in the cluster."""
    keys = secrets.read(lab)
    command, environment = server(PORT, "s3://mlflow-artifacts", HOSTS, storage.database_uri(lab))
    environment |= {
        "MLFLOW_S3_ENDPOINT_URL": storage.S3_URL,
        # Its webhooks go to a listener in the cluster, over http, and must not work with a list of a minute ago.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": urlsafe_b64encode(keys["mlflow-webhooks"].encode()).decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "AWS_ACCESS_KEY_ID": keys["s3-access"],
        "AWS_SECRET_ACCESS_KEY": keys["s3-secret"],
        "AWS_DEFAULT_REGION": storage.REGION,
    }
    daemons.start(lab, "mlflow", command, env=environment, cwd=lab.folder("mlflow"))
    lab.apply(external("mlflow", PORT))


def ready(lab: Lab) -> str:
    """Its health page answers."""
    daemons.require(lab, "mlflow")
    return storage.http_answers(f"{URL}/health")


PART = Part(
    "mlflow", start, ready, lambda lab: daemons.stop(lab, "mlflow"), needs=("dns", "postgres", "s3"), log="mlflow"
)
