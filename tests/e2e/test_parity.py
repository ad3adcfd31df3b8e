"""The same runs on the local target and on the cluster: same status, reason, results, skips and finally outcomes.

The table of differences is `PARITY` here and in docs/parity.md; a test fails when a difference is not in it, and when
one that is in it does not show.
"""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tekton_examples
import yaml
from normal_form import from_tekton
from tekton_examples import Example

from e2e.cluster import Object, Space, Target, eventually
from isotherm_local.runner.normal import normal_form
from isotherm_local.runner.run import run_pipeline

# What Debian's base image, which stands in for every foreign image, has beside a shell.
PROGRAMS = {"python3", "bash", "sh"}
NAMESPACE = "e2e-examples"
RUNS = [one for one in tekton_examples.examples() if one.everywhere and not one.refused and set(one.needs) <= PROGRAMS]
# Example -> the keys of the normal form that differ, and why.
PARITY: dict[str, tuple[set[str], str]] = {}


@pytest.fixture(scope="module")
def space(target: Target) -> Iterator[Space]:
    """A namespace without restrictions: other people's steps run as their images say."""
    target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    target.kubectl("create", "namespace", NAMESPACE)
    yield Space(target, NAMESPACE)
    target.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def on_cluster(space: Space, tekton_module: Path) -> dict[str, dict[str, Any]]:
    """Normal form of every example, run a few at a time: a node of two cores starts a pod in about a second."""
    forms = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=6) as pool:
        waiting = {pool.submit(run_on_cluster, space, one, tekton_module, n): one for n, one in enumerate(RUNS)}
        for future in concurrent.futures.as_completed(waiting):
            try:
                forms[waiting[future].name] = future.result()
            except AssertionError as error:
                forms[waiting[future].name] = {"error": str(error)}
    return forms


def named(documents: list[Object], number: int) -> tuple[list[Object], Object]:
    """The example's objects and its run, whose name is made unique; other kinds keep theirs."""
    run = next(item for item in documents if item["kind"] in tekton_examples.RUNS)
    others = [item for item in documents if item is not run]
    for item in documents:
        item["metadata"].pop("namespace", None)
    run["metadata"].pop("generateName", None)
    run["metadata"]["name"] = f"example-{number}"
    return others, run


def run_on_cluster(space: Space, example: Example, module: Path, number: int) -> dict[str, Any]:
    """Create an example's objects, wait for its end, return its normal form."""
    others, run = named(example.documents(module), number)
    if others:
        space.apply(others)
    space.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))
    kind, name = run["kind"].lower(), run["metadata"]["name"]

    def ended() -> Object | None:
        found = space.get(kind, name)
        return found if found.get("status", {}).get("completionTime") else None

    finished = eventually(ended, 240, every=1.0)
    return from_tekton(finished, space.task_runs(name) if kind == "pipelinerun" else ())


def differences(ours: Any, theirs: Any, example: Example) -> set[str]:
    """Keys of the normal form that differ; results that vary by nature are left out."""
    left, right = dict(ours), dict(theirs)
    if example.varying:
        for form in (left, right):
            form.pop("results", None)
            form["tasks"] = {name: {**t, "results": {}} for name, t in form.get("tasks", {}).items()}
    return {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


@pytest.mark.parametrize("example", RUNS, ids=lambda one: one.name)
def test_an_example_ends_alike_here_and_on_the_cluster(
    example: Example, on_cluster: dict[str, Any], tekton_module: Path, tmp_path: Path
) -> None:
    theirs = on_cluster[example.name]
    assert "error" not in theirs, theirs
    assert (theirs["status"], theirs["reason"]) == (example.status, example.reason)
    if any(shutil.which(program) is None for program in example.needs):
        pytest.skip("this machine lacks a program that the example's image has")
    file = tmp_path / "example.yaml"
    file.write_text(yaml.safe_dump_all(example.documents(tekton_module), sort_keys=False))
    ours = normal_form(run_pipeline(file, state=tmp_path / "state", name="it", foreign_images=True))
    expected = PARITY.get(example.name, (set(), ""))[0]
    assert differences(ours, theirs, example) == expected, (ours, theirs)
