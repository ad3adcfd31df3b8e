"""Programs of the lab built from Go modules: `modules/NAME/go.mod` and go.sum pin every source.

Binaries lie in the cache, in a folder named by the hash of the module's files: one build per version.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isotherm_local.lint import gotools
from lab.part import CHECKOUT, Lab, LabError

MODULES = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Module:
    """How one module is built: its programs by name, which is their package's last element; link flags, tags."""

    programs: dict[str, str]
    main: str  # the module whose files (manifests, examples) the lab reads
    ldflags: str = "-s -w"
    tags: str = ""
    cgo: bool = False


def _under(prefix: str, *names: str) -> dict[str, str]:
    return {name: f"{prefix}/{name}" for name in names}


KUBERNETES = "v1.34.2"
_VERSION = "k8s.io/component-base/version"
TABLE = {
    "kubernetes": Module(
        _under(
            "k8s.io/kubernetes/cmd",
            "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
        ),
        "k8s.io/kubernetes",
        f"-s -w -X {_VERSION}.gitVersion={KUBERNETES} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=34",
    ),
    "pipelines": Module(
        _under(
            "github.com/tektoncd/pipeline/cmd",
            "controller", "webhook", "events", "resolvers", "entrypoint", "nop", "workingdirinit", "sidecarlogresults",
        ),
        "github.com/tektoncd/pipeline",
    ),
    "triggers": Module(
        _under("github.com/tektoncd/triggers/cmd", "controller", "webhook", "eventlistenersink", "interceptors"),
        "github.com/tektoncd/triggers",
    ),
    "kserve": Module(_under("github.com/kserve/kserve/cmd", "manager"), "github.com/kserve/kserve"),
    "coredns": Module({"coredns": "./coredns"}, "github.com/coredns/coredns"),
    "versitygw": Module(_under("github.com/versity/versitygw/cmd", "versitygw"), "github.com/versity/versitygw"),
    "tkn": Module(_under("github.com/tektoncd/cli/cmd", "tkn"), "github.com/tektoncd/cli"),
    "kube-router": Module(
        {"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
        "github.com/cloudnativelabs/kube-router/v2",
    ),
    "gitea": Module(
        {"gitea": "code.gitea.io/gitea"}, "code.gitea.io/gitea", tags="sqlite sqlite_unlock_notify", cgo=True
    ),
    "rollouts": Module(
        _under("github.com/argoproj/argo-rollouts/cmd", "rollouts-controller"), "github.com/argoproj/argo-rollouts"
    ),
    "oc": Module(
        _under("github.com/openshift/oc/cmd", "oc"),
        "github.com/openshift/oc",
        tags="include_gcs include_oss containers_image_openpgp",
    ),
}  # fmt: skip


def _environment(module: Module) -> dict[str, str]:
    return {"CGO_ENABLED": str(int(module.cgo))}


def key(name: str) -> str:
    """Hash what decides the binaries of a module."""
    digest = hashlib.sha256(repr(TABLE[name]).encode())
    place = MODULES / name
    # Its own programs put others' packages together.
    for path in (place / "go.mod", place / "go.sum", *sorted(place.glob("*/*.go"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def binary(lab: Lab, name: str, program: str) -> Path:
    """Where a program of a module lies once it is built."""
    return lab.cache / "bin" / f"{name}-{key(name)}" / program


def _go(name: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    go = shutil.which("go")
    if go is None:
        raise LabError("go is not installed; install Go 1.26 or newer")
    done = subprocess.run(
        [go, *arguments],
        cwd=MODULES / name,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "; ".join(done.stderr.strip().splitlines()[-3:]) or "no message"
        raise LabError(f"`go {arguments[0]}` failed in tests/lab/modules/{name}: {last[-600:]}")
    return done.stdout


def built(lab: Lab, names: Sequence[str]) -> list[str]:
    """Those of the modules whose programs are all there."""
    return [n for n in names if all(binary(lab, n, program).exists() for program in TABLE[n].programs)]


def fetch(name: str) -> None:
    """Download what a module's programs need, and no more: `go mod download` would take its tests' needs as well."""
    module = TABLE[name]
    arguments = ["list", "-deps", f"-tags={module.tags}", "-f={{.Name}}", *module.programs.values()]
    _go(name, *arguments, env=_environment(module))


def build(lab: Lab, name: str) -> None:
    """Build a module's programs into the cache; nothing to do where they are there."""
    module, place = TABLE[name], binary(lab, name, "x").parent
    if built(lab, [name]):
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # All programs in one command: while one is linked, which takes one core, the next ones are compiled.
    arguments = ["build", *gotools.FLAGS, f"-ldflags={module.ldflags}", f"-tags={module.tags}", "-o", f"{partial}/"]
    _go(name, *arguments, *module.programs.values(), env=_environment(module) | gotools.PATIENT)
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def source(name: str) -> Path:
    """The folder of a module's source (manifests, examples) in Go's module cache."""
    return _source(MODULES / name, TABLE[name].main)


def openshift_api() -> Path:
    """The folder of github.com/openshift/api, which the catalog's schema checks pin."""
    return _source(CHECKOUT / "scripts" / "schemas", gotools.OPENSHIFT)


def _source(module: Path, package: str) -> Path:
    try:
        return gotools.source(module, package)
    except gotools.Missing as error:
        raise LabError(str(error)) from error
