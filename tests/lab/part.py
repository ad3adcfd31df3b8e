"""What a part of the lab is, and where the lab keeps its things.

State   /var/lib/isotherm-lab (ISOTHERM_LAB_STATE): pid files, logs, certificates, volumes; gone after `down`
Cache   ~/.cache/isotherm/lab (ISOTHERM_LAB_CACHE): binaries by the hash of their go.sum, image archives; kept
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
NODE_NAME = "lab"
NODE_IP = "10.88.0.1"
POD_NETWORK = "10.88.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
NAMESPACE = "isotherm-lab"  # Services of what runs beside the cluster: MLflow, S3, git, Prometheus
DOMAIN = "lab.internal"  # hosts of Routes: NAME-NAMESPACE.apps.lab.internal

Object = dict[str, Any]


class LabError(Exception):
    """What went wrong and what to do, in one line; `__main__` shows it without a traceback."""


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default)


@dataclass(frozen=True)
class Lab:
    """Paths of one lab, and the way to its API server."""

    state: Path = field(default_factory=lambda: _folder("ISOTHERM_LAB_STATE", "/var/lib/isotherm-lab"))
    cache: Path = field(
        default_factory=lambda: _folder(
            "ISOTHERM_LAB_CACHE",
            f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/isotherm/lab",
        )
    )

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.state / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    def folder(self, name: str) -> Path:
        """A folder of the state, made when it is asked for."""
        path = self.state / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        """The log of a daemon."""
        return self.folder("log") / f"{name}.log"

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator and return what it printed; raises `LabError` with its last line."""
        from lab.golang import binary

        command = [str(binary(self, "kubernetes", "kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)[:100]}: {(done.stderr.strip() or 'no message')[-600:]}")
        return done.stdout

    def get(self, *arguments: str) -> Object:
        """`kubectl get ... -o json`, parsed."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def apply(self, objects: Iterable[Object]) -> None:
        """Server-side apply: the objects may be larger than an annotation, and may be applied again."""
        text = yaml.safe_dump_all(list(objects), sort_keys=False)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def apply_definitions(self, items: Iterable[Object]) -> None:
        """Apply CustomResourceDefinitions and wait until the API server serves them: controllers look once."""
        definitions = list(items)
        self.apply(definitions)
        names = [item["metadata"]["name"] for item in definitions]
        deadline = time.monotonic() + 60
        while late := self._not_established(names):
            if time.monotonic() > deadline:
                raise LabError(f"the API server does not serve {', '.join(late)}")
            time.sleep(0.3)

    def _not_established(self, names: list[str]) -> list[str]:
        """Those of the definitions that are not served yet; their conditions appear a moment after them."""
        found = self.get("crd", *names)
        items = found.get("items", [found])
        served = {
            item["metadata"]["name"]
            for item in items
            for condition in item.get("status", {}).get("conditions") or []
            if condition["type"] == "Established" and condition["status"] == "True"
        }
        return [name for name in names if name not in served]

    def deployments_ready(self, namespace: str) -> str:
        """Empty when every Deployment of the namespace is rolled out, else which are not, or that there are none."""
        items = self.get("deployments", "-n", namespace)["items"]
        if not items:
            return "not started"
        late = [item["metadata"]["name"] for item in items if not _rolled_out(item)]
        return f"waiting for {', '.join(late)} in {namespace}" if late else ""


def _rolled_out(deployment: Object) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == wanted
    )


def nothing(_: Lab) -> None:
    """What a part that runs inside the cluster does to stop: it ends with it."""


@dataclass(frozen=True)
class Part:
    """One part: `start` may be called again at any time; `ready` only looks, and says "" or what is missing.

    `finish` makes what only a part that is ready can take; it too may be called again. `early` is done while programs
    are built, before any part starts: downloads and builds of its own.

    `binaries` maps Go modules (folders of `modules/`) to the programs that `start` finds with `golang.binary`.
    """

    name: str
    start: Callable[[Lab], None]
    ready: Callable[[Lab], str]
    stop: Callable[[Lab], None] = nothing
    finish: Callable[[Lab], None] = nothing
    early: Callable[[Lab], None] = nothing
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)  # program -> Debian package that has it
    log: str = ""  # the daemon whose log tells why; empty: the namespace's pods do
    namespace: str = ""
    core: bool = True
    seconds: float = 180.0
