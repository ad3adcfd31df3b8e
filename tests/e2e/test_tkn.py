"""The commands of the README as a person types them: `tkn` starts a run like the last one and shows its log."""

from __future__ import annotations

import subprocess

import pytest
from lab import golang
from lab.part import Lab
from waiting import eventually

from e2e.cluster import Finished
from e2e.conftest import MODEL, Catalog

pytestmark = pytest.mark.core


def tkn(catalog: Catalog, *arguments: str) -> str:
    """Run tkn in the catalog's namespace; return all that it printed."""
    program = golang.binary(Lab(), "tkn", "tkn")
    command = [
        str(program),
        f"--kubeconfig={catalog.target.kubeconfig}",
        f"--namespace={catalog.namespace}",
        *arguments,
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300
    )
    return done.stdout


def test_tkn_starts_a_run_like_a_former_one_and_its_log_ends_with_the_cause(catalog: Catalog, first: Finished) -> None:
    """The log is asked for at the end: tkn may hang following tries that fail within seconds (docs/status.md)."""
    start = ["pipeline", "start", MODEL, "--use-pipelinerun", "first", "--prefix-name", "by-hand"]
    tkn(catalog, *start, "-p", "data-path=data/none")
    runs = eventually(lambda: [run for run in catalog.get("pipelineruns")["items"] if _by_hand(run)], 30)
    name = runs[0]["metadata"]["name"]
    catalog.wait(name)
    shown = tkn(catalog, "pipelinerun", "logs", name)
    fetched = [line for line in shown.splitlines() if line.startswith("[fetch-data : fetch]")]
    assert fetched, shown
    assert fetched[-1].startswith("[fetch-data : fetch] error: ")
    assert len(runs) == 1
    accounts = {spec["pipelineTaskName"]: spec["serviceAccountName"] for spec in runs[0]["spec"]["taskRunSpecs"]}
    assert accounts["deploy"] == "kserve-deploy"


def _by_hand(run: dict) -> bool:
    return str(run["metadata"]["name"]).startswith("by-hand")


def test_tkn_shows_results_and_descriptions(catalog: Catalog, first: Finished) -> None:
    shown = tkn(catalog, "pipelinerun", "describe", "first")
    assert "verdict" in shown
    assert first.results["data-version"] in shown
    described = tkn(catalog, "pipeline", "describe", MODEL)
    assert "repo-url" in described
