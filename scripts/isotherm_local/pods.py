"""One predictor process, as KServe would run it in a pod: what to run (from the objects) and the running thing.

Inputs   an InferenceService and its ServingRuntime
Outputs  a process of the image family's own environment, its log under `<state>/namespaces/<ns>/predictors/<isvc>/log`
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import contract
from isotherm_local import canaries, ports, processes
from isotherm_local.kinds import Object
from isotherm_local.supervisor import http_status

if TYPE_CHECKING:
    from isotherm_local.supervisor import Children

CONTAINER = "kserve-container"
LABEL_INFERENCE_SERVICE = "serving.kserve.io/inferenceservice"
READY_PATH = "/v2/health/ready"
PROBE_FAILURES = 3
# KServe's own default of `serviceAnnotationDisallowedList`, and what driver isvc asks to add to it: every other
# annotation reaches the pod template.
_NOT_INHERITED = (
    "autoscaling.knative.dev/minScale",
    "autoscaling.knative.dev/maxScale",
    "internal.serving.kserve.io/storage-initializer-sourceuri",
    "kubectl.kubernetes.io/last-applied-configuration",
    "security.opendatahub.io/enable-auth",
    contract.ANNOTATION_SHIFT,
)
_HTTP_PORT = re.compile(r"--http_port(?:=(\d+))?")
_PLACEHOLDER = re.compile(r"\{\{\s*\.(Name|Namespace)\s*\}\}")


class Unsupported(Exception):
    """What an object asks for cannot be run locally, or not yet; the text becomes a condition's message."""


@dataclass(frozen=True)
class Template:
    """A pod template with its storage; two with the same `digest` are the same pod."""

    labels: dict[str, str]
    annotations: dict[str, str]
    container: Object
    storage_uri: str
    claims: dict[str, str]  # mount path -> PersistentVolumeClaim, or a folder of it: CLAIM/SUBPATH
    replicas: int
    port: int
    port_name: str | None
    ready_path: str

    @property
    def digest(self) -> str:
        """Hash what makes a pod: everything but the number of them."""
        parts = [self.labels, self.annotations, self.container, self.storage_uri, self.claims]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def pod_template(service: Object, runtime: Object) -> Template:
    """Merge an InferenceService into its ServingRuntime as KServe's Standard mode does.

    Environment variables merge by name, arguments are appended, annotations of the InferenceService reach the pods.
    Raises `Unsupported` with the reason for what the local target cannot run.
    """
    metadata, predictor = service["metadata"], service["spec"]["predictor"]
    model, spec = predictor["model"], runtime["spec"]
    found = [c for c in spec["containers"] if c["name"] == CONTAINER]
    if len(spec["containers"]) != 1 or not found:
        raise Unsupported(
            f"runtime {runtime['metadata']['name']}: the local target runs one container named {CONTAINER}"
        )
    formats = [f.get("name") for f in spec.get("supportedModelFormats") or []]
    if formats and model["modelFormat"]["name"] not in formats:
        raise Unsupported(
            f"runtime {runtime['metadata']['name']} does not support format {model['modelFormat']['name']}"
        )
    environment = {entry["name"]: entry for entry in found[0].get("env") or []}
    environment.update({entry["name"]: entry for entry in model.get("env") or []})
    environment["INFERENCE_SERVICE_NAME"] = {"name": "INFERENCE_SERVICE_NAME", "value": metadata["name"]}
    container = {
        **found[0],
        "image": model.get("image", found[0]["image"]),
        "command": model.get("command") or found[0].get("command") or [],
        "args": [*(found[0].get("args") or []), *(model.get("args") or [])],
        "env": list(environment.values()),
        "resources": model.get("resources") or found[0].get("resources") or {},
    }
    container = json.loads(_PLACEHOLDER.sub(lambda m: str(metadata[m[1].lower()]), json.dumps(container)))
    name = canaries.deployment_name(service)
    declared = container.get("ports") or []
    probe = (container.get("readinessProbe") or {}).get("httpGet") or {}
    inherited = {
        **(spec.get("annotations") or {}),
        **(metadata.get("annotations") or {}),
        **(predictor.get("annotations") or {}),
    }
    labels = {**(spec.get("labels") or {}), **(metadata.get("labels") or {}), **(predictor.get("labels") or {})}
    return Template(
        labels={**labels, "app": f"isvc.{name}", "component": "predictor", LABEL_INFERENCE_SERVICE: metadata["name"]},
        annotations={key: value for key, value in inherited.items() if key not in _NOT_INHERITED},
        container=container,
        storage_uri=model.get("storageUri", ""),
        claims=_claims(predictor),
        replicas=predictor.get("minReplicas", 1),
        port=_http_port(container["args"]),
        port_name=next((p.get("name") for p in declared), None),
        ready_path=probe.get("path", READY_PATH),
    )


def _claims(predictor: Object) -> dict[str, str]:
    """What the container mounts, by its path there: CLAIM or CLAIM/SUBPATH. Raises `Unsupported` for other volumes."""
    sources = {one["name"]: one.get("persistentVolumeClaim") or {} for one in predictor.get("volumes") or []}
    mounts = {one["mountPath"]: one for one in predictor["model"].get("volumeMounts") or []}
    for path, mount in mounts.items():
        if "claimName" not in sources.get(mount["name"], {}) or ".." in mount.get("subPath", "").split("/"):
            raise Unsupported(f"mount {path}: the local target mounts PersistentVolumeClaims and folders of them only")
    places = {path: (sources[one["name"]]["claimName"], one.get("subPath", "")) for path, one in mounts.items()}
    return {path: "/".join(part for part in place if part) for path, place in places.items()}


def claim_folder(state: Path, namespace: str, claim: str) -> Path:
    """Where a namespace's PersistentVolumeClaim, or CLAIM/SUBPATH, lies on the local target."""
    return state / "namespaces" / namespace / "pvcs" / claim


def _http_port(arguments: list[str]) -> int:
    """Read the port that the container listens on: `--http_port=N`."""
    ports = [match[1] for match in map(_HTTP_PORT.fullmatch, arguments) if match and match[1]]
    if len(ports) != 1:
        raise Unsupported(
            "the runtime's args need one --http_port=PORT, which the local target replaces by a free port"
        )
    return int(ports[0])


def family(image: str) -> str:
    """Name the image family of a reference: `registry/isotherm/pinn-api:0.1.0@sha256:...` is `pinn-api`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def model_folder(state: Path, namespace: str, storage_uri: str) -> Path:
    """Find the folder of `pvc://claim/path` in the state folder; it must be there and hold a file."""
    match = re.fullmatch(r"pvc://([a-z0-9]([-a-z0-9]*[a-z0-9])?)/(.+)", storage_uri)
    if match is None:
        raise Unsupported(f"storageUri {storage_uri!r}: the local target reads pvc://CLAIM/PATH only")
    claim = claim_folder(state, namespace, match[1])
    folder = (claim / match[3]).resolve()
    if not folder.is_relative_to(claim.resolve()):
        raise Unsupported(f"storageUri {storage_uri!r} leads out of its claim")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise Unsupported(f"storageUri {storage_uri!r}: there is no model in {folder}")
    return folder


def command_line(
    template: Template, port: int, folder: Path, mounts: Mapping[str, Path]
) -> tuple[list[str], dict[str, str]]:
    """Translate the container to a local command and its variables: interpreter, port, model folder and what is mounted
    (folder by mount path) are replaced.
    """
    container = template.container
    python = processes.interpreter(family(container["image"]))
    if not container["command"] or container["command"][0] not in ("python", "python3"):
        raise Unsupported("the container's command must start with `python`: the local target has no images to run")
    if not python.exists():
        raise Unsupported(
            f"image {container['image']}: there is no environment {python.parents[1]}; run `make demo` once"
        )
    variables = {}
    for entry in container["env"]:
        if "value" not in entry:
            raise Unsupported(f"variable {entry['name']}: the local target knows plain values only, no valueFrom")
        variables[entry["name"]] = str(entry["value"])
    texts = [*container["command"][1:], *container["args"], *variables.values()]
    expanded = next((text for text in texts if "$(" in text), None)
    if expanded is not None:
        raise Unsupported(f"{expanded!r}: the local target does not expand $(NAME)")
    arguments = [
        f"--http_port={port}" if _HTTP_PORT.fullmatch(argument) else argument for argument in container["args"]
    ]
    command = [str(python), *container["command"][1:], *arguments]
    real = {contract.MODEL_MOUNT: folder, **mounts}
    place = re.compile(f"({'|'.join(map(re.escape, real))})" + r"(?![\w.-])")

    def here(text: str) -> str:
        return place.sub(lambda match: str(real[match[1]]), text)

    return [here(argument) for argument in command], {name: here(value) for name, value in variables.items()}


@dataclass(eq=False)
class Pod:
    """A running predictor. `end_after` is the time after which it is ended, None while it is wanted."""

    name: str
    template: Template
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    ready: bool = False
    probe_after: float = 0.0
    missed_probes: int = 0
    end_after: float | None = None
    ending: bool = False

    @classmethod
    def start(
        cls, namespace: str, deployment: str, template: Template, state: Path, children: Children, now: float
    ) -> Pod:
        """Start the process; raises `Unsupported` where the template cannot be run."""
        service = deployment.removesuffix("-predictor")
        port = ports.free_port()
        mounts = {path: claim_folder(state, namespace, claim) for path, claim in template.claims.items()}
        model = model_folder(state, namespace, template.storage_uri)
        command, variables = command_line(template, port, model, mounts)
        folder = state / "namespaces" / namespace / "predictors" / service
        env = processes.environment(folder / "home", Path(command[0]).parent)
        # A pod has an address and a /tmp of its own; here that is loopback and a folder beside the log.
        env |= {contract.ENV_HTTP_HOST: "127.0.0.1", "TMPDIR": str(folder / "tmp"), **variables}
        (folder / "tmp").mkdir(exist_ok=True)
        name = f"{deployment}-{template.digest}-{port}"
        process = children.start(name, command, env=env, cwd=folder, log_file=folder / "log")
        return cls(name, template, port, process, folder / "log", now)

    async def probe(self, now: float) -> None:
        """Ask for readiness: every 0.1 s until ready, then every second, unready after three misses."""
        if await http_status(self.port, self.template.ready_path) == 200:
            self.ready, self.missed_probes = True, 0
        else:
            self.missed_probes += 1
            self.ready = self.ready and self.missed_probes < PROBE_FAILURES
        self.probe_after = now + (1.0 if self.ready else 0.1)

    def end_if_due(self, now: float) -> None:
        """Send SIGTERM once its time has come, SIGKILL ten seconds later."""
        if self.end_after is None or now < self.end_after:
            return
        if not self.ending:
            self.process.send_signal(signal.SIGTERM)
            self.ending = True
        elif now > self.end_after + 10:
            self.process.send_signal(signal.SIGKILL)
