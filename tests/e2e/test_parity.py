"""The same runs on the local target and on the cluster: same status, reason, results, skips and finally outcomes.

What is known to differ is in `PARITY`, what no lab can run in `UNSUITED`; docs/parity.md shows both (`document`). A
test fails when a difference is not in `PARITY`, and when one that is in it does not show. `-m core` runs `CORE`,
E2E_EXAMPLES=all also `ON_DEMAND`.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tekton_examples
import yaml
from normal_form import from_tekton
from tekton_examples import Example
from waiting import eventually

from e2e.cluster import Object, Space, Target
from isotherm_local.runner.normal import normal_form
from isotherm_local.runner.run import run_pipeline

# What Debian's base image, which stands in for every foreign image, has beside a shell.
PROGRAMS = {"python3", "bash", "sh"}
NAMESPACE = "e2e-examples"
AT_ONCE = 6
LISTED = tekton_examples.examples()
# Example -> the keys of the normal form that differ, and why.
PARITY: dict[str, tuple[set[str], str]] = {}
# Example -> why its pods never start on a cluster of one node without labels.
UNSUITED = {
    "pipelineruns/beta/pipelinerun-with-matrix-and-taskrunspecs-param-substitution.yaml": (
        "its node selector asks for two nodes, labelled node-type=worker-1 and worker-2"
    ),
    "pipelineruns/no-ci/pipelinerun-taskrunspecs.yaml": "its node selector asks for a node labelled disktype=ssd",
}
# Of what the local runner refuses, that which a cluster's webhook refuses too.
REFUSED_THERE = [one for one in LISTED if one.path == "pipelineruns/no-ci/compressed-results-pipeline.yaml"]
# A Task of these has seconds to live, the start of its pod included: they run first, one at a time.
HURRIED = {
    "pipelineruns/pipelinerun-with-task-timeout-override.yaml",
    "taskruns/beta/workspace-in-sidecar.yaml",
    "taskruns/workspace-in-sidecar.yaml",
}
# About 30 pods: what the catalog's own Pipelines are made of, and each of the ways in which a run ends.
CORE = {
    "pipelineruns/6139-regression.yaml",  # a skipped Task's result is none of the run's
    "pipelineruns/beta/ignore-task-error.yaml",  # onError of a Task and of a matrix, reasons in finally
    "pipelineruns/beta/pipelinerun-with-matrix.yaml",  # matrix: include, empty, onError, retries, finally
    "pipelineruns/beta/pipeline-emitting-results.yaml",  # arrays and objects
    "pipelineruns/beta/using-retries-and-retry-count-variables.yaml",
    "pipelineruns/pipelinerun-results.yaml",
    "pipelineruns/pipelinerun-task-execution-status.yaml",  # when, statuses in finally
    "pipelineruns/pipelinerun-with-final-results.yaml",
    "pipelineruns/pipelinerun-with-task-timeout-override.yaml",
    "pipelineruns/propagating-workspaces.yaml",
    "pipelineruns/using-optional-workspaces-in-when-expressions.yaml",
    "taskruns/beta/large-task-result.yaml",  # StepFailed
    "taskruns/ignore-step-error.yaml",
}
# What these are made of is in others too: they run where E2E_EXAMPLES=all asks for them.
ON_DEMAND = {
    "pipelineruns/alpha/pipelinerun-large-results.yaml",
    "pipelineruns/beta/pipelinerun-with-matrix-array-references.yaml",
    "pipelineruns/beta/pipelinerun-with-matrix-emitting-results.yaml",
    "pipelineruns/beta/pipelinerun-with-matrix-include-explicit.yaml",
    "pipelineruns/mapping-workspaces.yaml",
    "pipelineruns/pipeline-object-results.yaml",
    "pipelineruns/pipeline-with-displayname.yaml",
    "pipelineruns/pipelinerun-results-with-params.yaml",
    "pipelineruns/pipelinerun-using-parameterized-subpath-of-workspace.yaml",
    "pipelineruns/pipelinerun-with-parallel-tasks-using-pvc.yaml",
    "pipelineruns/pipelinerun-with-params.yaml",
    "pipelineruns/pipelinerun-with-pipelinespec-and-taskspec.yaml:pipelinerun-with-taskspec-to-echo-greetings",
    "pipelineruns/pipelinerun-with-pipelinespec-and-taskspec.yaml:pipelinerun-with-taskspec-to-echo-message",
    "pipelineruns/pipelinerun-with-pipelinespec.yaml",
    "pipelineruns/propagating-workspaces-in-pipelines.yaml",
    "pipelineruns/propagating_params_implicit_parameters.yaml",
    "pipelineruns/propagating_params_in_pipeline.yaml",
    "pipelineruns/propagating_params_with_scope_precedence_default_only.yaml",
    "pipelineruns/propagating_workspaces_with_referenced_resources.yaml",
    "taskruns/custom-env.yaml",
    "taskruns/default_task_params.yaml",
    "taskruns/home-volume.yaml",
    "taskruns/object-param-result.yaml",
    "taskruns/optional-workspaces.yaml",
    "taskruns/propagating_params_implicit.yaml",
    "taskruns/propagating_workspaces.yaml",
    "taskruns/steptemplate-env-merge.yaml",
    "taskruns/unnamed-steps.yaml",
    "taskruns/using_context_variables.yaml",
    "taskruns/workspace-volume.yaml",
}
FIRST, LAST = "<!-- examples: begin -->", "<!-- examples: end -->"


def suited(example: Example) -> bool:
    """Tell whether an example can run in both places."""
    refused = example.refused or example.name in UNSUITED
    return example.everywhere and not refused and set(example.needs) <= PROGRAMS


RUNS = [one for one in LISTED if suited(one)]
CHOSEN = [one for one in RUNS if one.name not in ON_DEMAND or os.environ.get("E2E_EXAMPLES") == "all"]


def document() -> str:
    """The table for docs/parity.md: everything of the list that is not compared key by key, refusals aside."""
    rows = [f"| {name} | {', '.join(sorted(keys))} differ | {why} |" for name, (keys, why) in sorted(PARITY.items())]
    rows += [f"| {one.name} | not compared | {one.note} |" for one in LISTED if not one.everywhere and not one.refused]
    rows += [f"| {name} | not run on the lab | {why} |" for name, why in sorted(UNSUITED.items())]
    for one in LISTED:
        lacking = "" if one.refused else " and ".join(sorted(set(one.needs) - PROGRAMS))
        if lacking:
            rows.append(f"| {one.name} | not run on the lab | the stand-in for its images lacks {lacking} |")
    return "\n".join([FIRST, "| example | on the lab | why |", "|---|---|---|", *rows, LAST])


@pytest.fixture(scope="module")
def spaces(target: Target) -> Iterator[list[Space]]:
    """Namespaces without restrictions: other people's steps run as their images say.

    One for each of those that run at once: several examples have other Tasks of the same name.
    """
    names = [f"{NAMESPACE}-{number}" for number in range(AT_ONCE)]
    target.kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait=true")
    made = [Space(target, name) for name in names]
    for one in made:
        target.kubectl("create", "namespace", one.namespace)
    for one in made:  # a pod created before its namespace's account is refused, and Tekton does not try again
        eventually(lambda one=one: one.kubectl("get", "serviceaccount", "default", check=False))
    yield made
    target.kubectl("delete", "namespace", *names, "--wait=false")


@pytest.fixture(scope="module")
def on_cluster(spaces: list[Space], tekton_module: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Normal form of every chosen example, run a few at a time: a node of two cores starts a pod in about a second."""
    params = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = {spec.params["example"].name for spec in params if spec and "example" in spec.params}
    numbered = [(number, one) for number, one in enumerate(RUNS) if one.name in chosen]
    free: queue.Queue[Space] = queue.Queue()
    for space in spaces:
        free.put(space)

    def ended(entry: tuple[int, Example]) -> tuple[str, dict[str, Any]]:
        number, example = entry
        space = free.get()
        try:
            return example.name, run_on_cluster(space, example, tekton_module, number)
        except AssertionError as error:
            return example.name, {"error": str(error)}
        finally:
            free.put(space)

    forms = dict(map(ended, [entry for entry in numbered if entry[1].name in HURRIED]))
    with concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        forms |= pool.map(ended, [entry for entry in numbered if entry[1].name not in HURRIED])
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
    finished = space.completed(kind, name, 240)
    return from_tekton(finished, space.task_runs(name) if kind == "pipelinerun" else ())


def differences(ours: Any, theirs: Any, example: Example) -> set[str]:
    """Keys of the normal form that differ; results that vary by nature are left out."""
    left, right = dict(ours), dict(theirs)
    if example.varying:
        for form in (left, right):
            form.pop("results", None)
            form["tasks"] = {name: {**t, "results": {}} for name, t in form.get("tasks", {}).items()}
    return {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


def marked(example: Example) -> Any:
    return pytest.param(example, id=example.name, marks=[pytest.mark.core] if example.name in CORE else [])


@pytest.mark.parametrize("example", [marked(one) for one in CHOSEN])
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


@pytest.mark.core
@pytest.mark.parametrize("refused", REFUSED_THERE, ids=lambda one: one.name)
def test_what_tekton_refuses_itself_is_refused_here_too(
    refused: Example, spaces: list[Space], tekton_module: Path
) -> None:
    others, _ = named(refused.documents(tekton_module), 0)
    with pytest.raises(AssertionError, match="non-existent variable"):
        spaces[0].kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(others))
    assert refused.refused
