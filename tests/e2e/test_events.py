"""Every event reaches a real listener and makes one run, under its own name; what is not entitled makes none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import eventually

from e2e import measurements
from e2e.events import SENDERS, Events, fresh, watch
from isotherm import contract
from isotherm_local.events import payloads

PUSHED = "event-measurements"  # its branch moves under a reconciler
# One of each way to be entitled, so that the core stays short.
CORE = ("github", "alertmanager", "mlflow")


def every(kinds: Iterable[str]) -> list[Any]:
    return [pytest.param(kind, marks=[pytest.mark.core] if kind in CORE else []) for kind in kinds]


@pytest.mark.parametrize("kind", every(SENDERS))
def test_an_event_sent_three_times_by_old_and_new_secret_makes_one_run(events: Events, kind: str) -> None:
    event = fresh(kind)
    pattern = events.send(kind, event)
    eventually(lambda: events.matching(pattern), 30)
    events.send(kind, event)
    events.send(kind, event, key="previous")
    last = events.send(kind, fresh(kind), key="previous")
    eventually(lambda: events.matching(last), 30)
    [name] = events.matching(pattern)
    metadata = events.runs()[name]["metadata"]
    assert metadata["labels"][contract.LABEL_EVENT] == payloads.SENDERS[kind].label
    assert metadata["annotations"][contract.ANNOTATION_EVENT_KEY] == name


@pytest.mark.parametrize("kind", every(SENDERS))
def test_the_offline_mode_makes_the_run_that_triggers_makes(
    events: Events, kind: str, replayer: None, tmp_path: Path
) -> None:
    pattern = events.send(kind, fresh(kind))
    [name] = eventually(lambda: events.matching(pattern), 30)
    real = events.runs()[name]
    [made] = events.offline(kind, tmp_path)
    assert made["metadata"]["name"] == name
    labels = {key: value for key, value in made["metadata"]["labels"].items() if not key.endswith("/triggers-eventid")}
    assert labels.items() <= real["metadata"]["labels"].items()
    assert made["metadata"]["annotations"].items() <= real["metadata"]["annotations"].items()
    for part in ("params", "workspaces", "pipelineRef", "status"):
        assert made["spec"][part] == real["spec"][part]
    assert [one["pipelineTaskName"] for one in made["spec"]["taskRunSpecs"]] == [
        one["pipelineTaskName"] for one in real["spec"]["taskRunSpecs"]
    ]


GIT = [("ref", "refs/heads/other"), ("commits.0.modified:", '["README.md"]'), ("after", "0" * 40),
       ("before", "$(tt.params.name)"), ("before:", '[",", ":"]'), ("commits:", "[]")]  # fmt: skip
ALERT = [("status", "resolved"), ("commonLabels.retrain", "false"), ("commonLabels.model", "another"),
         ("alerts.0.startsAt", "now"), ("alerts.0.fingerprint:", '["a"]'), ("alerts:", "[]")]  # fmt: skip
LAKEFS = [("branch_id", "other"), ("repository_id", "other"), ("event_type", "pre-merge"), ("commit_id:", '{"a": 1}')]
REFUSED = {
    "github": GIT, "gitea": GIT, "gitlab": GIT, "alertmanager": [*ALERT, ("version", "3")], "grafana": ALERT,
    "mlflow": [("data.alias", "challenger"), ("data.name", "another"), ("action", "deleted"), ("data.version", "1/2")],
    "lakefs-merge": LAKEFS, "lakefs-commit": LAKEFS, "schedule": [("model", "another"), ("scheduled", "tomorrow")],
}  # fmt: skip


@pytest.mark.parametrize("kind", every(REFUSED))
def test_what_is_not_entitled_makes_no_run(events: Events, kind: str) -> None:
    before = set(events.runs())
    events.send(kind, fresh(kind), secret=secrets.token_hex(16))
    for change in REFUSED[kind]:
        events.send(kind, [*fresh(kind), change])
    last = events.send(kind, fresh(kind))
    [name] = eventually(lambda: events.matching(last), 30)
    time.sleep(2)  # the listener works on each request by itself: an earlier one may end later
    assert set(events.runs()) - before == {name}


@pytest.mark.core
def test_the_reconciler_makes_the_run_of_a_lost_push(events: Events) -> None:
    """A listener that is away loses what a forge never sends again; the CronJob's next pass finds it."""
    origin = measurements.repository(events.target, PUSHED)
    first = measurements.publish(events.target, "heatinv", 1000, 1, to=PUSHED)
    events.compare({"git": [watch(origin)]})
    events.reconcile("pass-1")
    lost = measurements.publish(events.target, "heatinv", 1100, 7, to=PUSHED)
    assert lost != first
    events.reconcile("pass-2")
    name = f"data-measurements-{lost[:12]}"
    assert name in events.runs()
    events.send("github", [("after", lost)])
    count = len(events.runs())
    events.reconcile("pass-3")
    assert len(events.runs()) == count


def test_the_clock_makes_its_run_and_says_so(events: Events) -> None:
    """A CronJob names its Job by the minute for which it was due."""
    job = yaml.safe_load(events.kubectl("create", "job", "event-schedule-29400000", "--from=cronjob/event-schedule",
                                        "--dry-run=client", "-o", "yaml"))  # fmt: skip
    events.apply([job])
    events.kubectl("wait", "job/event-schedule-29400000", "--for=condition=complete", "--timeout=90s")
    assert [name for name in events.runs() if name.startswith("schedule-inverse-heat-pinn-20251124")]
