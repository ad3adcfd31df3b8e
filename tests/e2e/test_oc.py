"""The documented oc commands, run by oc itself; a Route is shifted by hand in the way that a Route CRD takes too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lab.part import CHECKOUT

from e2e import reach
from e2e.cluster import Object

NAMESPACE = "api-oc"
ROUTE = "inverse-heat-pinn"
SHIFT = "oc set route-backends inverse-heat-pinn blue=90 green=10 --dry-run=client -o json | oc replace -f -"


def commands(document: str) -> list[str]:
    """The oc commands in a document's console blocks, without their comments."""
    text = (CHECKOUT / document).read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines if line.startswith("oc ")]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace of the test's own; skipped where there is no oc."""
    if reach.program("oc", "oc") is None:
        pytest.skip("oc is not built (PYTHONPATH=tests:scripts:images python -m lab build oc)")
    with reach.namespace(NAMESPACE, reach.RESTRICTED) as name:
        yield name


@pytest.fixture
def kubeconfig(namespace: str, tmp_path: Path) -> Path:
    """A kubeconfig whose current namespace is the test's, as after `oc project`."""
    path = tmp_path / "kubeconfig"
    content = yaml.safe_load(Path(reach.kubeconfig()).read_text())
    for context in content["contexts"]:
        context["context"]["namespace"] = namespace
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)
    return path


def oc(kubeconfig: Path, *arguments: str, stdin: str | None = None, check: bool = True) -> tuple[str, str]:
    """Run oc in the checkout; returns what it printed and what it complained of."""
    program = str(reach.program("oc", "oc"))
    done = reach.run([program, f"--kubeconfig={kubeconfig}", *arguments], stdin, check=check, folder=CHECKOUT)
    return done.stdout, done.stderr


def pipe(kubeconfig: Path, command: str) -> str:
    """Run a documented command line: oc commands, the output of one the input of the next."""
    text: str | None = None
    for part in command.split("|"):
        program, *arguments = shlex.split(part)
        assert program == "oc"
        text, _ = oc(kubeconfig, *arguments, stdin=text)
    return str(text)


def route(kubeconfig: Path) -> dict[str, int]:
    """The Route's weights."""
    spec: Object = yaml.safe_load(oc(kubeconfig, "get", "route", ROUTE, "-o", "yaml")[0])["spec"]
    return {item["name"]: item["weight"] for item in [spec["to"], *spec["alternateBackends"]]}


def route_file() -> str:
    """A Route whose traffic is on blue."""
    backends = [{"kind": "Service", "name": name, "weight": weight} for name, weight in (("blue", 100), ("green", 0))]
    spec = {"host": "heat.api-oc.example", "to": backends[0], "alternateBackends": backends[1:]}
    header = {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": ROUTE}}
    return str(yaml.safe_dump({**header, "spec": spec}))


def made(kubeconfig: Path, command: str) -> None:
    """Make the Route, by create or apply, and wait for the router's word: a Route that it just writes to conflicts."""
    oc(kubeconfig, "delete", "route", ROUTE, "--ignore-not-found")
    oc(kubeconfig, command, "-f", "-", stdin=route_file())
    oc(kubeconfig, "wait", f"route/{ROUTE}", "--for=jsonpath={.status.ingress[0].conditions}", "--timeout=60s")


@pytest.fixture
def a_route(kubeconfig: Path) -> None:
    """A Route as kserve-deploy makes it: created, not applied."""
    made(kubeconfig, "create")


@pytest.mark.usefixtures("a_route")
def test_the_documented_command_shifts_a_route_by_hand(kubeconfig: Path) -> None:
    assert SHIFT in commands("docs/parity.md")
    assert route(kubeconfig) == {"blue": 100, "green": 0}
    assert pipe(kubeconfig, SHIFT).strip() == f"route.route.openshift.io/{ROUTE} replaced"
    assert route(kubeconfig) == {"blue": 90, "green": 10}


@pytest.mark.usefixtures("a_route")
def test_the_plain_command_is_refused_by_a_crd_and_changes_nothing(kubeconfig: Path) -> None:
    if "routes.route.openshift.io" not in oc(kubeconfig, "get", "crd", "-o", "name")[0]:
        pytest.skip("this cluster has OpenShift's own API server for Routes, which takes the command")
    _, complaint = oc(kubeconfig, "set", "route-backends", ROUTE, "blue=1", "green=99", check=False)
    assert "accepted media types include: application/json-patch+json, application/merge-patch+json" in complaint
    assert route(kubeconfig) == {"blue": 100, "green": 0}


def test_a_route_that_was_applied_cannot_be_applied_again_after_it(kubeconfig: Path) -> None:
    made(kubeconfig, "apply")
    pipe(kubeconfig, SHIFT)
    _, complaint = oc(kubeconfig, "apply", "-f", "-", stdin=route_file(), check=False)
    assert "metadata.resourceVersion" in complaint, "docs/parity.md says so"
    assert route(kubeconfig) == {"blue": 90, "green": 10}


def test_the_readme_commands_install_the_catalog_and_start_a_run(kubeconfig: Path) -> None:
    # The overlays have namespaces of their own, into which a test must not write: those are sent as a dry run.
    found = commands("README.md")
    assert found == [
        "oc apply -k .", "oc apply -k overlays/dev", "oc create -f pipelines/inverse-heat-pinn/runs/heatinv.yaml",
    ]  # fmt: skip
    root, overlay, run = ([*shlex.split(command)[1:]] for command in found)
    assert "task.tekton.dev/pinn-train created" in oc(kubeconfig, *root)[0]
    assert "serviceaccount/pinn-train" in oc(kubeconfig, *overlay, "--dry-run=client")[0]
    made = oc(kubeconfig, *run, "--dry-run=server", "-o", "name")[0]
    assert made.startswith("pipelinerun.tekton.dev/heatinv-")
    tasks = oc(kubeconfig, "get", "tasks.tekton.dev", "-o", "name")[0].split()
    assert len(tasks) == len(list(CHECKOUT.glob("tasks/*/rbac.yaml")))
