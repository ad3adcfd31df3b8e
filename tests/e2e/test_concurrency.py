"""Two runs of one model at once: each ends in a defined way and the Route has one live colour."""

from __future__ import annotations

import pytest

from e2e.conftest import OTHER, Catalog
from e2e.test_restarts import assert_nothing_doubled

pytestmark = pytest.mark.core


def test_of_two_runs_at_once_one_wins_and_the_other_wins_later_or_is_refused(
    catalog: Catalog, rivals: tuple[str, ...], local_forms: object
) -> None:
    """`local_forms` begin here, as nothing else that is heavy comes for a while."""
    ended = [catalog.wait(name) for name in rivals]
    assert any(one.succeeded for one in ended), [one.condition for one in ended]
    for one in ended:
        if not one.succeeded:
            failed = [run for run in one.task_runs if run["status"]["conditions"][0]["status"] == "False"]
            said = [catalog.log(run).strip().splitlines()[-1] for run in failed]
            assert all(line.startswith("error: ") for line in said), said
    # The loser may lose at its last Task, after it took the traffic: it is red and says so (docs/status.md).
    shifted = {one.task_results("shift").get("live-digest") for one in ended if "shift" in one.states()}
    assert catalog.answers(OTHER).headers["x-model-digest"] in shifted
    winners = {one.results["model-digest"] for one in ended if one.succeeded}
    assert catalog.champion(OTHER).tags["model_digest"] in winners
    for name in rivals:
        assert_nothing_doubled(catalog, name, OTHER)
