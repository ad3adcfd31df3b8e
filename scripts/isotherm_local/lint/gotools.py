"""Build and find the catalog's Go programs: the validation program, kustomize, and the one that replays events.

The first two come from the module in scripts/schemas, the third from scripts/triggers; each one's go.sum pins every
source. KServe's module asks for much more than its CustomResourceDefinitions: only those are taken, from the version
and hash in crds.sum. Binaries lie outside the checkout, in a folder of the user's cache named by a hash of the module:
they are built once per version.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

REQUIRE = "ISOTHERM_REQUIRE_GO"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5"
PIPELINES = "github.com/tektoncd/pipeline"
OPENSHIFT = "github.com/openshift/api"
# Where each module keeps the CustomResourceDefinitions that the catalog's objects are compared with.
DEFINITIONS = {
    PIPELINES: ["config/300-crds/*.yaml"],
    OPENSHIFT: [
        "route/v1/zz_generated.crd-manifests/routes.crd.yaml",
        "console/v1/zz_generated.crd-manifests/00_consoleyamlsamples.crd.yaml",
    ],
}
KSERVE_DEFINITIONS = [
    f"config/crd/full/serving.kserve.io_{kind}.yaml" for kind in ("inferenceservices", "servingruntimes")
]
# How every Go program of the checkout is built, the lab's too, so that what several modules ask for in one version is
# compiled once. Without debugging information, which the linker would drop anyway, and with garbage collected less
# often, the compiler has a third less work (Go's standard library: 92 against 136 s of processor time).
FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
PATIENT = {"GOGC": "400"}


class Missing(Exception):
    """A tool is not here and cannot be built; the message says why and what to do."""


def required() -> bool:
    """Tell whether a check that needs Go must run, not be skipped."""
    return os.environ.get(REQUIRE, "") not in ("", "0")


def _cache(module: Path) -> Path:
    digest = hashlib.sha256()
    for path in sorted([module / "go.mod", module / "go.sum", *module.glob("crds.sum"), *module.rglob("*.go")]):
        digest.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "isotherm" / module.name / digest.hexdigest()[:16]


def _go(module: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    go = shutil.which("go")
    if go is None:
        raise Missing("go is not installed; install Go 1.26 or newer")
    environment = {**os.environ, **(env or {})}
    done = subprocess.run([go, *arguments], cwd=module, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Missing(f"`go {arguments[0]}` failed in {module.name} ({last}); check the network and Go's version")
    return done.stdout


def _built(module: Path, name: str, package: str) -> Path:
    path = _cache(module) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: a build that is cut off, or one beside it, leaves no half program.
        partial = path.with_name(f"{name}.{os.getpid()}")
        environment = {"CGO_ENABLED": "0", **PATIENT}
        _go(module, "build", *FLAGS, "-ldflags=-s -w", "-o", str(partial), package, env=environment)
        partial.rename(path)
    return path


def _kserve(module: Path) -> Path:
    """Folder of KServe's module. Raises `Missing`, also where it is not the one that crds.sum names."""
    name, version, sum_ = (module / "crds.sum").read_text(encoding="utf-8").split()
    found = json.loads(_go(module, "mod", "download", "-json", f"{name}@{version}"))
    if found["Sum"] != sum_:
        raise Missing(f"{name} {version} has hash {found['Sum']}, not that of crds.sum; find out who changed it")
    return Path(found["Dir"])


def _definitions(module: Path) -> list[Path]:
    found = [path for pattern in KSERVE_DEFINITIONS for path in _kserve(module).glob(pattern)]
    for name, patterns in DEFINITIONS.items():
        found += [path for pattern in patterns for path in source(module, name).glob(pattern)]
    return found


@cache
def source(module: Path, package: str) -> Path:
    """Return the folder of a pinned module's source, fetched where it is not there. Raises `Missing`."""
    _go(module, "mod", "download", package)
    return Path(_go(module, "list", "-m", "-f", "{{.Dir}}", package).strip())


@cache
def validator(module: Path) -> tuple[Path, Path]:
    """Return the validation program and the folder of CustomResourceDefinitions. Raises `Missing`."""
    program = _built(module, "validate", "./validate")
    schemas = program.parent / "crds"
    if not schemas.exists():
        definitions = _definitions(module)
        partial = schemas.with_name(f"crds.{os.getpid()}")
        partial.mkdir(exist_ok=True)
        for path in definitions:
            shutil.copyfile(path, partial / path.name)
        try:
            partial.rename(schemas)
        except OSError:  # a check beside this one was faster
            shutil.rmtree(partial)
    return program, schemas


@cache
def replayer(module: Path) -> Path:
    """Return the program that tells what an EventListener makes of a request. Raises `Missing`."""
    return _built(module, "replay", "./replay")


@cache
def kustomize(module: Path) -> list[str]:
    """Return the command that renders a kustomization: the pinned one, else kubectl's. Raises `Missing`."""
    try:
        return [str(_built(module, "kustomize", KUSTOMIZE)), "build"]
    except Missing:
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise
        return [kubectl, "kustomize"]


def render(command: Sequence[str], folder: Path) -> tuple[str, str]:
    """Render a kustomization with `kustomize`'s command; return its YAML and, where it refuses, what it says."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    return (done.stdout, "") if done.returncode == 0 else ("", " ".join(done.stderr.split())[-400:] or "no message")
