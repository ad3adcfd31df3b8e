"""Admission: one run per key and per cool-down, whatever races."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from events_api import EventsApi, events_api

from isotherm import contract, kube, tekton
from isotherm.events import admit, claims

__all__ = ["events_api"]
_models = (f"plate-{n}" for n in itertools.count(1))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3600


@pytest.fixture
def model() -> str:
    return next(_models)


@pytest.fixture
def cluster(events_api: EventsApi) -> Iterator[kube.Cluster]:
    return events_api.cluster()


def ask(cluster: kube.Cluster, model: str, key: str, uid: str, *, cool: int = 0, at: datetime = NOON) -> admit.Verdict:
    return admit.admit(cluster, admit.Request(key, model, cool, f"run-{uid}", uid), now=lambda: at)


def lease(cluster: kube.Cluster, model: str) -> dict[str, Any]:
    found = cluster.get(kube.LEASE, contract.model_lease(model))
    assert found is not None
    return found


def test_a_key_is_admitted_once_and_its_own_pod_again(cluster: kube.Cluster, model: str) -> None:
    assert ask(cluster, model, "data-a-1", "u1") == admit.Verdict(True, "claimed")
    assert ask(cluster, model, "data-a-1", "u1") == admit.Verdict(True, "claimed-before")
    assert ask(cluster, model, "data-a-1", "u2") == admit.Verdict(False, "done")
    assert ask(cluster, model, "data-a-2", "u2") == admit.Verdict(True, "claimed")


def test_the_lease_holds_key_and_cool_down(cluster: kube.Cluster, model: str) -> None:
    ask(cluster, model, "retrain-a-1", "u1", cool=HOUR)
    stored = lease(cluster, model)
    time = "2026-03-01T12:00:00.000000Z"
    assert stored["spec"] == {
        "holderIdentity": "run-u1", "acquireTime": time, "renewTime": time, "leaseDurationSeconds": HOUR
    }  # fmt: skip
    noted = json.loads(stored["metadata"]["annotations"][contract.ANNOTATION_EVENT_KEYS])
    assert noted == [{"key": "retrain-a-1", "uid": "u1", "at": "2026-03-01T12:00:00Z"}]


def test_a_cool_down_refuses_without_claiming_so_that_the_event_may_come_again(
    cluster: kube.Cluster, model: str
) -> None:
    ask(cluster, model, "retrain-a-1", "u1", cool=HOUR)
    later = NOON + timedelta(minutes=59)
    refused = ask(cluster, model, "retrain-b-1", "u2", cool=HOUR, at=later)
    assert refused == admit.Verdict(False, "cooling-down until 2026-03-01T13:00:00Z")
    assert ask(cluster, model, "retrain-b-1", "u3", cool=HOUR, at=NOON + timedelta(hours=1)).admitted
    assert ask(cluster, model, "retrain-a-1", "u1", cool=HOUR, at=later).admitted, "a retried pod of the first run"


def test_a_run_without_cool_down_neither_waits_nor_ends_one(cluster: kube.Cluster, model: str) -> None:
    ask(cluster, model, "retrain-a-1", "u1", cool=HOUR)
    before = lease(cluster, model)["spec"]
    assert ask(cluster, model, "deploy-a-v1", "u2").admitted
    assert lease(cluster, model)["spec"] == before
    assert not ask(cluster, model, "retrain-b-1", "u3", cool=HOUR).admitted


def test_a_run_by_hand_is_admitted_and_leaves_nothing(cluster: kube.Cluster, model: str) -> None:
    ask(cluster, model, "retrain-a-1", "u1", cool=HOUR)
    before = lease(cluster, model)
    assert ask(cluster, model, "", "u2", cool=HOUR) == admit.Verdict(True, "by-hand")
    assert lease(cluster, model) == before


def test_the_last_keys_are_kept(cluster: kube.Cluster, model: str) -> None:
    many = [claims.Claim(key=f"data-a-{n}", uid=str(n), at="2026-03-01T12:00:00Z") for n in range(claims.KEPT_KEYS)]
    change = claims.claimed(claims.Ledger(many), claims.Claim(key="data-b", uid="u", at=""), "run", 0, NOON)
    kept = json.loads(change["metadata"]["annotations"][contract.ANNOTATION_EVENT_KEYS])
    assert len(kept) == claims.KEPT_KEYS
    assert (kept[0]["key"], kept[-1]["key"]) == ("data-a-1", "data-b")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"key": "a"}]', "[" * 1000])
def test_a_damaged_lease_is_refused_not_guessed(cluster: kube.Cluster, model: str, text: str) -> None:
    ask(cluster, model, "data-a-1", "u1")
    version = lease(cluster, model)["metadata"]["resourceVersion"]
    change = {"metadata": {"annotations": {contract.ANNOTATION_EVENT_KEYS: text}}}
    cluster.patch(kube.LEASE, contract.model_lease(model), change, version)
    with pytest.raises(tekton.Refused, match="cannot be read"):
        ask(cluster, model, "data-a-2", "u2")


def race(calls: list[Any]) -> list[admit.Verdict]:
    """Let all calls begin at once."""
    barrier, found, errors = threading.Barrier(len(calls)), [], []

    def one(call: Any) -> None:
        barrier.wait()
        try:
            found.append(call())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return found


def test_of_many_runs_with_one_key_one_is_admitted(events_api: EventsApi, model: str) -> None:
    clusters = [events_api.cluster() for _ in range(12)]
    found = race([lambda c=c, n=n: ask(c, model, "data-a-1", f"u{n}") for n, c in enumerate(clusters)])
    assert sorted(v.reason for v in found) == ["claimed"] + ["done"] * 11


def test_of_many_keys_in_one_cool_down_one_is_admitted(events_api: EventsApi, model: str) -> None:
    clusters = [events_api.cluster() for _ in range(12)]
    found = race([lambda c=c, n=n: ask(c, model, f"retrain-{n}", f"u{n}", cool=HOUR) for n, c in enumerate(clusters)])
    assert sum(v.admitted for v in found) == 1
    assert len(json.loads(lease(clusters[0], model)["metadata"]["annotations"][contract.ANNOTATION_EVENT_KEYS])) == 1


def test_many_keys_and_many_runs_without_cool_down_give_one_run_per_key(events_api: EventsApi, model: str) -> None:
    clusters = [events_api.cluster() for _ in range(12)]
    found = race([lambda c=c, n=n: (n % 4, ask(c, model, f"data-{n % 4}", f"u{n}")) for n, c in enumerate(clusters)])
    assert sorted(key for key, verdict in found if verdict.admitted) == [0, 1, 2, 3]


def test_a_lease_that_never_stands_still_ends_in_one_line(events_api: EventsApi, model: str) -> None:
    class Restless(kube.Cluster):
        """Somebody else writes after each read: every write of ours comes too late."""

        def get(self, kind: kube.Kind, name: str) -> kube.Object | None:
            stored = super().get(kind, name)
            if stored is not None:
                note = {"metadata": {"annotations": {"seen": stored["metadata"]["resourceVersion"]}}}
                super().patch(kind, name, note, stored["metadata"]["resourceVersion"])
            return stored

    cluster = events_api.cluster()
    ask(cluster, model, "data-a-1", "u1")
    cluster.__class__ = Restless
    with pytest.raises(tekton.Unavailable, match="kept changing"):
        admit.admit(cluster, admit.Request("data-a-2", model, 0, "run", "u2"), deadline_seconds=1)


def program(
    events_api: EventsApi, folder: Path, **inputs: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    results = {name: folder / name for name in ("admitted", "reason")}
    given = {
        "EVENT_KEY": "data-a-1", "COOL_DOWN_MINUTES": "0", "PIPELINE_RUN": "data-a-1", "PIPELINE_RUN_UID": "u1",
        "REPORTS_DIR": str(folder), **{f"RESULT_{name.upper()}": str(path) for name, path in results.items()},
    }  # fmt: skip
    env = {**events_api.environment(), **given, **inputs}
    done = subprocess.run(
        [sys.executable, "-m", "isotherm.events.admit"], env=env, capture_output=True, text=True, timeout=60
    )
    return done, {name: path.read_text() for name, path in results.items()}


def test_the_program_gives_results_and_a_report(events_api: EventsApi, tmp_path: Path, model: str) -> None:
    done, results = program(events_api, tmp_path, MODEL_NAME=model)
    assert done.returncode == 0, done.stderr
    assert results == {"admitted": "true", "reason": "claimed"}
    report = json.loads((tmp_path / "admit.json").read_text())
    assert (report["schema_version"], report["task"], report["admitted"]) == (1, "event-admit", True)
    done, results = program(events_api, tmp_path, MODEL_NAME=model, PIPELINE_RUN_UID="u2")
    assert (done.returncode, results) == (0, {"admitted": "false", "reason": "done"})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"MODEL_NAME": "A/../b"}, 2),
        ({"EVENT_KEY": "$(uid)"}, 2),
        ({"COOL_DOWN_MINUTES": "-1"}, 2),
        ({"COOL_DOWN_MINUTES": "soon"}, 2),
        ({"PIPELINE_RUN_UID": ""}, 2),
    ],
    ids=str,
)
def test_bad_input_admits_nothing(
    events_api: EventsApi, tmp_path: Path, model: str, change: dict[str, str], code: int
) -> None:
    done, results = program(events_api, tmp_path, **{"MODEL_NAME": model, **change})
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert results["admitted"] == "false"
