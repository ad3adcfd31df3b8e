"""A local target with registered models, for tests of deployment and traffic: real API, router, predictors, MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from serving import Quiet, served

import isotherm_local.cluster
from isotherm import contract, kube
from isotherm.deploy import canary, deploy, preconditions, routes, shift
from isotherm.registry import client as registry
from isotherm.registry import versions

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/unit"))  # the small bundle with known answers lives beside the predictor's tests
import onnx_models  # noqa: E402

OPS_PYTHON = ROOT / ".venv/ops/bin/python"
IMAGE = "isotherm/pinn-api:0.1.0"
CLAIM = "isotherm"
SERVICES = routes.pair("blue", "green")
SHIFT_NOTES = ("ANNOTATION_SHIFT", "ANNOTATION_PREVIOUS", "ANNOTATION_CANDIDATE", "ANNOTATION_REJECTED")


@dataclass
class Model:
    """One registered version."""

    digest: str
    version: str


@dataclass
class Target:
    """One namespace of a running local target, with the models that a test registered."""

    local: isotherm_local.cluster.Cluster
    namespace: str
    mlflow_url: str
    folder: Path
    model_name: str = "plate"
    models: dict[float, Model] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        """The folder behind workspace `model-store`."""
        return self.local.state / "namespaces" / self.namespace / "pvcs" / CLAIM / "model-store"

    @property
    def reports(self) -> Path:
        """The folder behind workspace `reports`."""
        return self.folder / "reports"

    @property
    def router_url(self) -> str:
        """The router, for every host."""
        return self.local.endpoints.router_url

    @cached_property
    def cluster(self) -> kube.Cluster:
        """A connection as a program makes it with this namespace's kubeconfig."""
        from kubernetes import config

        path = str(self.local.kubeconfig(self.namespace))
        return kube.Cluster(config.new_client_from_config(config_file=path), self.namespace, deadline_seconds=5)

    def register(self, shift_of_u: float, *, hole: bool = False, **tags: str) -> Model:
        """Log and register the bundle whose `u` is shifted by this much, and NaN where x = 0 with `hole`; its lineage
        tags can be replaced.
        """
        client = registry.connect(self.mlflow_url)
        run = client.create_run("0")
        logged = client.create_logged_model("0", name="model", source_run_id=run.info.run_id)
        extra = self.folder / logged.model_id / "extra_files"
        digest = onnx_models.write_bundle(extra, shift=shift_of_u, hole=hole)
        (extra / contract.RUN_MANIFEST_FILE).write_text("{}")
        (extra.parent / "MLmodel").write_text(f"artifact_path: model\nmodel_id: {logged.model_id}\nflavors: {{}}\n")
        client.log_model_artifacts(logged.model_id, str(extra.parent))
        client.finalize_logged_model(logged.model_id, "READY")
        shutil.rmtree(extra.parent)
        lineage = dict.fromkeys(contract.LINEAGE_TAGS, "known") | {contract.TAG_MODEL_DIGEST: digest} | tags
        found = versions.register(
            client, self.model_name, logged.model_id, tags=lineage, description="", check=lambda: None
        )
        return self.models.setdefault(shift_of_u, Model(digest, found.version))

    def deployment(self, model: Model, uid: str, **changes: Any) -> deploy.Request:
        """Params of kserve-deploy for a model."""
        values: dict[str, Any] = {
            "model_name": self.model_name, "model_version": model.version, "model_digest": model.digest,
            "services": SERVICES, "route": self.model_name, "model_store": f"pvc://{CLAIM}/model-store",
            "predictor_image": IMAGE, "run_uid": uid, "router_url": self.router_url, "tls_termination": "none",
            "ready_timeout_seconds": 60.0,
        }  # fmt: skip
        return deploy.Request(**(values | changes))

    def deploy(self, model: Model, uid: str, **changes: Any) -> dict[str, Any]:
        """Deploy within this process."""
        client = registry.connect(self.mlflow_url)
        return deploy.deploy(self.deployment(model, uid, **changes), self.cluster, client, self.store, None)

    def shifter(
        self,
        colour: str,
        model: Model | None,
        uid: str,
        settings: canary.Settings | None = None,
        *,
        cluster: kube.Cluster | None = None,
        **changes: Any,
    ) -> shift.Shifter:
        """Build a shift that runs within this process."""
        values: dict[str, Any] = {
            "route": self.model_name, "services": SERVICES, "colour": colour, "run_uid": uid,
            "model_digest": model.digest if model else "", "model_version": model.version if model else "",
            "router_url": self.router_url, "verify_requests": 50, "verify_timeout_seconds": 20.0,
        }  # fmt: skip
        request = preconditions.Request(**(values | changes))
        return shift.Shifter(request, cluster or self.cluster, settings, self.reports)

    def stored(self, kind: kube.Kind, name: str) -> kube.Object:
        """Read an object that must exist."""
        found = self.cluster.get(kind, name)
        assert found is not None, f"{kind.name} {name}"
        return found

    def route(self) -> routes.Route:
        """Read the Route."""
        return routes.Routes(self.cluster, SERVICES).require(self.model_name)

    def write_route(self, **patch: Any) -> None:
        """Change the Route as somebody else would (`oc set route-backends`, `oc annotate`)."""
        current = self.stored(kube.ROUTE, self.model_name)
        self.cluster.patch(kube.ROUTE, self.model_name, patch, current["metadata"]["resourceVersion"])

    def all_to_blue(self, live: Model) -> None:
        """Everything to blue, on which this model is; no owner, and no note of a former shift."""
        own = [value for name, value in vars(contract).items() if name.startswith(SHIFT_NOTES)]
        notes = dict.fromkeys(own, None) | {contract.ANNOTATION_LIVE_DIGEST: live.digest}
        both = routes.backends({"blue": 100, "green": 0}, SERVICES)
        self.write_route(metadata={"annotations": notes, "ownerReferences": None}, **both)

    def everything(self) -> dict[str, str]:
        """Kind, name and resourceVersion of what deployment may write."""
        found = {}
        for kind in (kube.ROUTE, kube.INFERENCE_SERVICE, kube.SERVING_RUNTIME):
            for stored in self.cluster.list(kind, ""):
                found[f"{kind.name} {stored['metadata']['name']}"] = stored["metadata"]["resourceVersion"]
        return found

    def run_program(self, module: str, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
        """Run a program as its Task's step does, in its image family's environment; return process and results."""
        results = self.folder / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        names = {
            "isotherm.deploy.deploy": ("colour", "model_digest", "inference_service", "route_created"),
            "isotherm.deploy.shadow": ("outcome", "reason", "disagreement"),
            "isotherm.deploy.shift": (
                "outcome", "canary_verdict", "route_before", "route_after", "observed_share",
                "live_colour", "live_digest", "live_version",
            ),
        }[module]  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder),
            "KUBECONFIG": str(self.local.kubeconfig(self.namespace)),
            "DRIVER": "route", "ROUTE": self.model_name, "ROUTER_URL": self.router_url,
            "SERVICE_BLUE": "blue", "SERVICE_GREEN": "green",
            "PREDICTOR_REPLICAS": "1", "PREDICTOR_CPU": "250m", "PREDICTOR_MEMORY": "512Mi",
            "PREDICTION_LOG_CLAIM": "",
            "REPORTS_DIR": str(self.reports), "MLFLOW_URI": self.mlflow_url, "MODEL_STORE_DIR": str(self.store),
            **{f"RESULT_{name.upper()}": str(results / name) for name in names},
        }  # fmt: skip
        command = [str(OPS_PYTHON), "-m", module]
        done = subprocess.run(
            command, env=environment | inputs, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        return done, {path.name: path.read_text() for path in results.iterdir()}


def write_only(shifter: shift.Shifter, checked: preconditions.Checked | None = None) -> routes.Route:
    """Do a shift's write and nothing after it, as a driver that dies then; returns the Route as it left it."""
    checked = checked or shifter.check()
    return shifter._write(shift.Course(checked, checked)).route


@contextmanager
def started(folder: Path, mlflow_url: str, *, reload_seconds: float = 0.1, **options: Any) -> Iterator[Target]:
    """A local target of its own below a folder, with a namespace and a model's name that no other test uses."""
    local = isotherm_local.cluster.Cluster(
        folder / "state", reload_seconds=reload_seconds, with_mlflow=False, **options
    )
    local.start()
    try:
        yield Target(local, "plates", mlflow_url, folder, model_name=f"plate-{folder.name[-8:].strip('-')}")
    finally:
        local.stop()


def stubborn_router(
    digest: str, status: int = 200, *, before: Sequence[str] = (), port: int = 0
) -> AbstractContextManager[str]:
    """A router that answers everything from one model, whatever the Route says.

    `before` are the models of its first answers, each for one request; an empty one is the router's own 503.
    """
    waiting = list(before)

    class Answers(Quiet):
        def do_GET(self) -> None:
            signed = waiting.pop(0) if waiting else digest
            self.send_response(status if signed else 503)
            if signed:
                self.send_header(contract.HEADER_MODEL_DIGEST, signed)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return served(Answers, port)
