"""What a test needs to know when all it wants is a Kubernetes API: where it is, and a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import golang
from lab.part import Lab


def kubeconfig() -> str:
    """KUBECONFIG's cluster, else the lab; the test is skipped where there is neither."""
    path = os.environ.get("KUBECONFIG") or str(Lab().kubeconfig)
    if not Path(path.split(os.pathsep)[0]).is_file():
        pytest.skip("no cluster: neither KUBECONFIG nor the lab is there (make lab)")
    return path


def program(name: str, module: str) -> str | None:
    """A command-line client: the lab's own build, else the one on PATH under KUBECONFIG."""
    built = golang.binary(Lab(), module, name)
    return str(built) if built.exists() else None


def run(
    command: list[str],
    stdin: str | None = None,
    *,
    check: bool = True,
    folder: Path | None = None,
    seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a client against the cluster; fails with what it said."""
    environment = {**os.environ, "KUBECONFIG": kubeconfig()}
    done = subprocess.run(
        command,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        cwd=folder,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)[-200:]}: {done.stderr.strip()[-800:]}"
    return done


def kubectl(
    *arguments: str, stdin: str | None = None, check: bool = True, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run kubectl."""
    command = [program("kubectl", "kubernetes") or "kubectl", *arguments]
    return run(command, stdin, check=check, seconds=seconds)


RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@contextmanager
def namespace(name: str, labels: dict[str, str] | None = None) -> Iterator[str]:
    """A namespace, deleted afterwards."""
    # Of a session that ended a moment ago it may still be full: its listeners and hundreds of runs take minutes.
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=true", seconds=300)
    found = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
    kubectl("apply", "-f", "-", stdin=json.dumps(found))
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
