"""The Lease of a model's registry on a real API: one writer at a time, also after one that died."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from events_api import EventsApi, events_api

from isotherm import contract, kube, tekton
from isotherm.registry import turn

__all__ = ["events_api"]
_models = (f"Plate_{n}" for n in itertools.count(1))


@pytest.fixture
def model() -> str:
    return next(_models)


def spec(api: EventsApi, model: str) -> dict[str, object]:
    stored = api.cluster().get(kube.LEASE, contract.registry_lease(model))
    assert stored is not None
    return stored["spec"]


def taken(api: EventsApi, model: str, holder: str, seconds: float) -> turn.Turn:
    """A turn whose holder never renews nor releases it: it died."""
    one = turn.Turn(api.cluster(), contract.registry_lease(model), model, holder, seconds)
    one.take(10)
    return one


def test_of_many_writers_one_at_a_time_is_inside(events_api: EventsApi, model: str) -> None:
    inside, most, ended = 0, 0, []

    def write(holder: str) -> None:
        nonlocal inside, most
        with turn.held(events_api.cluster(), model, holder) as check:
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            check()
            inside -= 1
        ended.append(holder)

    threads = [threading.Thread(target=write, args=(f"run-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(ended)) == (1, 4)
    assert (spec(events_api, model)["leaseTransitions"], spec(events_api, model)["holderIdentity"]) == (4, "")


def test_a_writer_that_died_is_passed_over_after_its_duration_and_no_sooner(events_api: EventsApi, model: str) -> None:
    taken(events_api, model, "dead", 2)
    began = time.monotonic()
    with turn.held(events_api.cluster(), model, "next", seconds=2) as check:
        check()
        assert time.monotonic() - began > 2
        assert spec(events_api, model)["holderIdentity"] == "next"


def test_a_writer_that_lives_keeps_its_turn_beyond_the_duration(events_api: EventsApi, model: str) -> None:
    with turn.held(events_api.cluster(), model, "slow", seconds=1) as check:
        other = turn.Turn(events_api.cluster(), contract.registry_lease(model), model, "other", 1)
        with pytest.raises(tekton.Unavailable, match=r"slow has held Lease isotherm-registry-plate-\d+ for 3 s"):
            other.take(3)
        check()


def test_who_lost_the_lease_may_not_write_and_does_not_take_it_back(events_api: EventsApi, model: str) -> None:
    late = taken(events_api, model, "late", 1)
    with turn.held(events_api.cluster(), model, "next", seconds=1):
        with pytest.raises(tekton.Unavailable, match="could not be renewed"):
            late.check()
        late.release()
        assert spec(events_api, model)["holderIdentity"] == "next"
