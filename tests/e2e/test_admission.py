"""What whole runs of an event do: the second run of one event nothing, a live model is not deployed again."""

from __future__ import annotations

import secrets

from e2e.cluster import Finished
from e2e.conftest import EVENT_KEY, WORKSPACES, Catalog
from isotherm import contract


def test_of_one_event_a_second_run_does_nothing(
    catalog: Catalog, refused: tuple[Finished, list[str], list[str]]
) -> None:
    """As when the first run was pruned and the event is sent again."""
    assert refused[0].task_results("admit") == {"admitted": "true", "reason": "claimed"}
    two = catalog.wait(catalog.run("event-two", revision=1, event_key=EVENT_KEY))
    assert two.succeeded, two.condition
    assert two.task_results("admit") == {"admitted": "false", "reason": "done"}
    assert set(two.states()) == {"admit", "report"}
    cooled = f"retrain-{secrets.token_hex(8)}-20261124190500"
    alert = catalog.params(1, event_key=cooled)
    three = catalog.wait(catalog.pipeline_run("drift-retrain", "event-three", alert, **WORKSPACES))
    assert three.succeeded, three.condition
    assert set(three.states()) == {"admit", "report"}
    assert three.task_results("admit")["reason"].startswith("cooling-down until ")


def test_an_alias_on_what_is_live_already_changes_nothing(catalog: Catalog, first: Finished) -> None:
    """What the pipeline's own promotion would set off."""
    before, digest = catalog.route(), catalog.answers().headers["x-model-digest"]
    live = next(one for one in catalog.versions() if one.tags[contract.TAG_MODEL_DIGEST] == digest)
    params = {"model-version": live.version, "mlflow-uri": catalog.target.mlflow, "router-url": catalog.target.router}
    ended = catalog.wait(catalog.pipeline_run("deploy-model", "deploy-live", params))
    assert ended.succeeded, (ended.condition, ended.states())
    assert ended.task_results("deploy")["model-digest"] == digest
    assert ended.task_results("shift")["outcome"] == "unchanged"
    assert catalog.route() == before
