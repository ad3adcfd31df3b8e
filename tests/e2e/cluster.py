"""A cluster to test on, and a namespace of it that has the catalog: installed, started and read as a user would.

The lab is one way to have a cluster; KUBECONFIG names another. Then these say where its services are, as seen from
this machine (and as pods see them: the same address must do): E2E_MLFLOW, E2E_ROUTER, E2E_GIT (a URL under which the
repositories of folder E2E_GIT_FOLDER are served), E2E_S3, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lab import git, golang, mlflow, routes, secrets, storage, watching
from lab.part import CHECKOUT, Lab, Object
from waiting import eventually

BUILD = CHECKOUT / "build" / "e2e"
RUNS = {
    "inverse-heat-pinn": CHECKOUT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml",
    "drift-retrain": CHECKOUT / "pipelines/drift-retrain/runs/drift-retrain.yaml",
    "rollback": CHECKOUT / "pipelines/rollback/runs/rollback.yaml",
    "blue-green": CHECKOUT / "pipelines/blue-green/runs/blue-green.yaml",
    "canary": CHECKOUT / "pipelines/canary/runs/canary.yaml",
    "shadow": CHECKOUT / "pipelines/shadow/runs/shadow.yaml",
    "shadow-logged": CHECKOUT / "pipelines/shadow/runs/logged.yaml",
    "deploy-model": CHECKOUT / "pipelines/deploy-model/runs/deploy-model.yaml",
}
RUN_SECONDS = 600
SERVICES = (
    "E2E_MLFLOW", "E2E_ROUTER", "E2E_GIT", "E2E_GIT_FOLDER", "E2E_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Where the cluster and its services are."""

    kubeconfig: str
    kubectl_program: str
    mlflow: str
    router: str
    git: str
    git_folder: Path
    s3: str
    s3_keys: tuple[str, str]
    prometheus: str  # empty: none is known, canaries are judged by what the predictors say

    @classmethod
    def find(cls) -> Target:
        """The cluster of KUBECONFIG, else the lab; fails where that one's services are not named too."""
        lab, env = Lab(), os.environ
        if env.get("KUBECONFIG") not in (None, "", str(lab.kubeconfig)):
            missing = [name for name in SERVICES if not env.get(name)]
            assert not missing, (
                f"KUBECONFIG names a cluster, but {', '.join(missing)} is not set; say where its services are "
                "(docs/lab.md), or unset KUBECONFIG to test on the lab"
            )
            keys = (env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
            folder = Path(env["E2E_GIT_FOLDER"])
            return cls(
                env["KUBECONFIG"], "kubectl", env["E2E_MLFLOW"], env["E2E_ROUTER"], env["E2E_GIT"], folder,
                env["E2E_S3"], keys, env.get("E2E_PROMETHEUS", ""),
            )  # fmt: skip
        keys = secrets.read(lab)
        return cls(
            str(lab.kubeconfig), str(golang.binary(lab, "kubernetes", "kubectl")), mlflow.URL, routes.URL, git.URL,
            lab.folder("git"), storage.S3_URL, (keys["s3-access"], keys["s3-secret"]), watching.PROMETHEUS_URL,
        )  # fmt: skip

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; fails with what it said."""
        command = [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)[:200]}: {done.stderr.strip()[-800:]}"
        return done.stdout

    def aws(self) -> dict[str, str]:
        """Environment of a program that talks to the S3 server."""
        return {
            "AWS_ACCESS_KEY_ID": self.s3_keys[0],
            "AWS_SECRET_ACCESS_KEY": self.s3_keys[1],
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_DEFAULT_REGION": storage.REGION,
        }


@dataclass(frozen=True)
class Finished:
    """A PipelineRun that has ended, with its TaskRuns."""

    run: Object
    task_runs: list[Object] = field(default_factory=list)

    @property
    def condition(self) -> Object:
        """Condition Succeeded."""
        return next(c for c in self.run["status"]["conditions"] if c["type"] == "Succeeded")

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return bool(self.condition["status"] == "True")

    @property
    def results(self) -> dict[str, Any]:
        """Results of the Pipeline."""
        return {item["name"]: item["value"] for item in self.run["status"].get("results", [])}

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by skipped Task."""
        return {item["name"]: item["reason"] for item in self.run["status"].get("skippedTasks", [])}

    @property
    def seconds(self) -> float:
        """From the controller's start to the end."""
        return _seconds(self.run["status"]["startTime"], self.run["status"]["completionTime"])

    def task(self, name: str) -> Object:
        """The TaskRun of a pipeline task."""
        label = "tekton.dev/pipelineTask"
        [found] = [item for item in self.task_runs if item["metadata"]["labels"][label] == name]
        return found

    def states(self) -> dict[str, str]:
        """Reason of each TaskRun by pipeline task."""
        return {
            item["metadata"]["labels"]["tekton.dev/pipelineTask"]: item["status"]["conditions"][0]["reason"]
            for item in self.task_runs
        }

    def task_results(self, name: str) -> dict[str, Any]:
        """Results of a pipeline task."""
        return {item["name"]: item["value"] for item in self.task(name)["status"].get("results", [])}


def _seconds(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


@dataclass
class Space:
    """A namespace with the catalog."""

    target: Target
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl in this namespace."""
        return self.target.kubectl("-n", self.namespace, *arguments, stdin=stdin, check=check)

    def get(self, *arguments: str) -> Object:
        """`kubectl get -o json`."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def apply(self, objects: Iterable[Object]) -> None:
        """`kubectl apply` of objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(list(objects), sort_keys=False))

    def install(self, overlay: str) -> None:
        """`kubectl apply -k overlays/...`, then what a platform team adds: services by name, credentials."""
        self.target.kubectl("apply", "-k", overlay)
        access, secret = self.target.s3_keys
        # The AWS command line's files for DVC, and KServe's own names for the model store.
        files = {
            "credentials": f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n",
            "config": f"[default]\nregion = {storage.REGION}\nendpoint_url = {self.target.s3}\n",
        }
        self.apply(
            [
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dvc-credentials"}, "stringData": files},
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "model-store", "annotations": _kserve_s3(self.target.s3)},
                    "stringData": self.target.aws(),
                },
            ]
        )

    def remove(self, *, wait: bool = False) -> None:
        """Delete the namespace. Its pods are not waited for: Triggers' listeners take their whole grace period."""
        self.target.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false", check=False)
        if wait:
            self.target.kubectl("wait", "--for=delete", f"namespace/{self.namespace}", "--timeout=180s", check=False)
            assert not self.target.kubectl("get", "namespace", self.namespace, "--ignore-not-found"), self.namespace

    def pipeline_run(
        self, pipeline: str, name: str, params: Mapping[str, Any], *, delete_first: bool = True, **spec: Any
    ) -> str:
        """Create a PipelineRun from the catalog's own example, as name `name`; `spec` fields replace the example's."""
        run = yaml.safe_load(RUNS[pipeline].read_text())
        run["metadata"].pop("generateName", None)
        run["metadata"] |= {"name": name, "namespace": self.namespace}
        given = {param["name"]: param["value"] for param in run["spec"].get("params", [])} | dict(params)
        run["spec"]["params"] = [{"name": key, "value": value} for key, value in given.items()]
        run["spec"] |= spec
        if delete_first:
            self.kubectl("delete", "pipelinerun", name, "--ignore-not-found", "--wait=true")
        self.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))
        return name

    def wait(self, name: str, seconds: float = RUN_SECONDS) -> Finished:
        """Wait for the end of a PipelineRun."""
        run = self.completed("pipelinerun", name, seconds)
        return Finished(run, self.task_runs(name))

    def completed(self, kind: str, name: str, seconds: float) -> Object:
        """Wait by one watch until a run has ended, and return it: polling kubectl takes a core from the node."""
        self.kubectl("wait", f"{kind}/{name}", "--for=jsonpath={.status.completionTime}", f"--timeout={seconds:.0f}s")
        return self.get(kind, name)

    def task_runs(self, name: str) -> list[Object]:
        """TaskRuns of a PipelineRun, oldest first."""
        items: list[Object] = self.get("taskruns", "-l", f"tekton.dev/pipelineRun={name}")["items"]
        return sorted(items, key=lambda item: item["metadata"]["creationTimestamp"])

    def running(self, run: str, task: str, seconds: float = 240) -> Object:
        """Wait until the step of a pipeline task runs, or has run where that is short; return its TaskRun."""

        def found() -> Object | None:
            for item in self.task_runs(run):
                if item["metadata"]["labels"]["tekton.dev/pipelineTask"] == task:
                    steps = item.get("status", {}).get("steps", [])
                    if steps and {"running", "terminated"} & set(steps[0]):
                        return item
            return None

        item: Object = eventually(found, seconds, every=0.5)
        return item

    def log(self, task_run: Object) -> str:
        """What the Task's step printed."""
        pod = task_run["status"]["podName"]
        containers = [f"step-{step['name']}" for step in task_run["status"].get("steps", [])]
        return "".join(self.kubectl("logs", pod, "-c", container, check=False) for container in containers)


def _kserve_s3(url: str) -> dict[str, str]:
    host = url.partition("://")[2]
    return {
        "serving.kserve.io/s3-endpoint": host,
        "serving.kserve.io/s3-usehttps": "1" if url.startswith("https") else "0",
        "serving.kserve.io/s3-region": storage.REGION,
        "serving.kserve.io/s3-verifyssl": "0",
    }
