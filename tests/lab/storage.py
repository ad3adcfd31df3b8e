"""Where things are kept: S3 (versitygw over a folder) and PostgreSQL, processes of the node.

In the cluster S3 is Service `s3` of namespace isotherm-lab. Buckets are those of the source document.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab import daemons, golang, secrets
from lab.dns import external
from lab.part import NODE_IP, Lab, LabError, Part

S3_PORT = 7070
S3_URL = f"http://{NODE_IP}:{S3_PORT}"
REGION = "us-east-1"
BUCKETS = ("mlflow-artifacts", "research-datasets", "isotherm-models")
POSTGRES_PORT = 15432
DATABASE = "mlflow"


def start_s3(lab: Lab) -> None:
    """versitygw, with a folder for each bucket."""
    keys = secrets.read(lab)
    root = lab.folder("buckets")
    for bucket in BUCKETS:
        (root / bucket).mkdir(exist_ok=True)
    command = [str(golang.binary(lab, "versitygw", "versitygw")), "--port", f"{NODE_IP}:{S3_PORT}", "--region", REGION]
    command += ["--health", "/health", "posix", "--sidecar", str(lab.folder("s3-metadata")), str(root)]
    # By environment, not on the command line, which every process of the machine can read.
    environment = {"ROOT_ACCESS_KEY": keys["s3-access"], "ROOT_SECRET_KEY": keys["s3-secret"]}
    daemons.start(lab, "versitygw", command, env=environment)
    lab.apply(external("s3", S3_PORT))


def s3_ready(lab: Lab) -> str:
    """Its health page answers."""
    daemons.require(lab, "versitygw")
    return http_answers(f"{S3_URL}/health")


def http_answers(url: str) -> str:
    """ "" when `url` answers 2xx, else why not."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=3):
            return ""
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"


def _postgres_folder() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise LabError("PostgreSQL is not installed; install it (Debian: apt-get install postgresql)")
    return found[-1].parent


def start_postgres(lab: Lab) -> None:
    """A cluster of its own with one database, owned by the system's user `postgres`, who alone may run it."""
    data, binaries = lab.state / "postgres", _postgres_folder()
    lab.state.chmod(0o755)  # its user passes through; what is secret has its own mode
    if not (data / "PG_VERSION").exists():
        data.mkdir(exist_ok=True)
        shutil.chown(data, "postgres", "postgres")
        password = data.parent / "postgres.password"
        password.touch(0o600)
        password.write_text(secrets.read(lab)["postgres"])
        shutil.chown(password, "postgres")
        command = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "mlflow",
            f"--pwfile={password}",
            "-A",
            "scram-sha-256",
        ]
        done = subprocess.run(
            daemons.as_user("postgres", command), cwd="/", capture_output=True, text=True, check=False
        )
        password.unlink()
        if done.returncode:
            raise LabError(f"initdb: {done.stderr.strip()[-300:]}")
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NODE_IP}/32 scram-sha-256\n")
    settings = [f"listen_addresses={NODE_IP}", f"port={POSTGRES_PORT}", f"unix_socket_directories={data}", "fsync=off"]
    command = [str(binaries / "postgres"), "-D", str(data)]
    for setting in settings:
        command += ["-c", setting]
    daemons.start(lab, "postgres", daemons.as_user("postgres", command), cwd=Path("/"))


def _psql(lab: Lab, statement: str) -> subprocess.CompletedProcess[str]:
    command = ["psql", "-h", NODE_IP, "-p", str(POSTGRES_PORT), "-U", "mlflow", "-d", "postgres", "-tAc", statement]
    environment = {"PGPASSWORD": secrets.read(lab)["postgres"], "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def postgres_ready(lab: Lab) -> str:
    """It answers."""
    daemons.require(lab, "postgres")
    asked = _psql(lab, "select 1")
    return asked.stderr.strip()[-200:] if asked.returncode else ""


def make_database(lab: Lab) -> None:
    """MLflow's database, where it is not there yet."""
    if _psql(lab, f"select 1 from pg_database where datname = '{DATABASE}'").stdout.strip() != "1":
        made = _psql(lab, f"create database {DATABASE}")
        if made.returncode:
            raise LabError(made.stderr.strip()[-200:])


def database_uri(lab: Lab) -> str:
    """SQLAlchemy's address of the database."""
    return f"postgresql+psycopg2://mlflow:{secrets.read(lab)['postgres']}@{NODE_IP}:{POSTGRES_PORT}/{DATABASE}"


S3 = Part(
    "s3", start_s3, s3_ready, lambda lab: daemons.stop(lab, "versitygw"), needs=("dns",), modules=("versitygw",),
    log="versitygw",
)  # fmt: skip
POSTGRES = Part(
    "postgres", start_postgres, postgres_ready, lambda lab: daemons.stop(lab, "postgres"), make_database,
    needs=("containerd",),
    packages={"psql": "postgresql", "/usr/lib/postgresql": "postgresql", "setpriv": "util-linux"}, log="postgres",
)  # fmt: skip
