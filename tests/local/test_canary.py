"""A canary on the local target: real predictors behind the real router, judged by their own counters and by probes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import httpx
import pytest
from deploy_target import SERVICES, Target, started, write_only
from waiting import beside, eventually

from isotherm import contract, kube, tekton
from isotherm.deploy import counters, probes, routes
from isotherm.deploy.bake import Pace
from isotherm.deploy.canary import Settings
from isotherm.rollout import decisions
from isotherm.rollout.judge import Verdict

ONE, TWO, HOLED = 0.0, 1.0, 2.0
SLOW = 5.0  # s; no answer here is judged by the speed of the machine
PROBED = Settings((20, 50), Pace(0.5, 1, 60), probes_per_second=40, latency_seconds=SLOW)
CLIENTS = Settings((50,), Pace(0.5, 1, 30), probes_per_second=0, latency_seconds=SLOW)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Iterator[Target]:
    """Version 1 live on blue."""
    with started(tmp_path_factory.mktemp("canary"), mlflow_url) as found:
        found.deploy(found.register(ONE), "run-1")
        found.register(TWO)
        found.register(HOLED, hole=True)
        yield found


@pytest.fixture
def on_blue(target: Target) -> Target:
    """Everything to blue, no note of a former shift, version 2 ready on green."""
    target.all_to_blue(target.models[ONE])
    target.deploy(target.models[TWO], "run-2")
    return target


def clients(target: Target, path: str) -> AbstractContextManager[None]:
    """Somebody who asks through the router, again and again, beside a block."""
    host = {"Host": target.route().host, "Connection": "close"}

    def ask(ended: threading.Event) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not ended.is_set():
                client.get(target.router_url + path, headers=host)

    return beside(ask)


def logged(target: Target, weight: int) -> list[Verdict]:
    lines = (target.reports / contract.REPORT_DECISIONS / f"{weight:03}.jsonl").read_text().splitlines()
    return list(decisions.replay(lines))


def test_a_first_model_has_nothing_to_be_compared_with_and_no_steps(target: Target) -> None:
    """Its Route was made with all the traffic on it; the other colour is not there yet."""
    assert target.cluster.get(kube.INFERENCE_SERVICE, f"{target.model_name}-green") is None
    report = target.shifter("blue", target.models[ONE], "run-1", PROBED).shift()
    assert (report["outcome"], report["steps"], report["after"]) == ("unchanged", [], {"blue": 100, "green": 0})


def test_a_healthy_canary_goes_up_step_by_step_on_probes_alone(on_blue: Target) -> None:
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2", PROBED).shift()
    assert (report["outcome"], report["problem"], report["after"]) == ("shifted", "", {"blue": 0, "green": 100})
    assert [(step["weight"], step["verdict"]) for step in report["steps"]] == [(20, "PROMOTE"), (50, "PROMOTE")]
    for step in report["steps"]:
        assert logged(on_blue, step["weight"])[-1] is Verdict.PROMOTE
        (bad, asked), _ = step["counts"][probes.ERRORS]
        assert (bad, asked > 50) == (0, True)
        # Nobody else asked, and probes are no clients.
        assert step["counts"][counters.ERRORS] == [[0, 0], [0, 0]]
    assert not on_blue.route().shifting


def test_a_canary_that_fails_its_clients_is_taken_back(on_blue: Target) -> None:
    """Its graph has no answer where x = 0, which the gate and the probes have not asked for."""
    on_blue.deploy(on_blue.models[HOLED], "run-3")
    with clients(on_blue, "/predict-temperature?x=0&y=0.5&t=0.1"):
        report = on_blue.shifter("green", on_blue.models[HOLED], "run-3", CLIENTS).shift()
    assert (report["outcome"], report["restored"], report["after"]) == ("failed", True, {"blue": 100, "green": 0})
    assert "rolled back at 50 %: errors is worse" in report["problem"]
    (bad, asked), (stable_bad, _) = report["steps"][0]["counts"][counters.ERRORS]
    assert (bad == asked > 0, stable_bad) == (True, 0)
    assert logged(on_blue, 50)[-1] is Verdict.ROLLBACK
    after = on_blue.route()
    assert (after.shifting, after.annotations[contract.ANNOTATION_REJECTED_DIGEST]) == (
        False,
        on_blue.models[HOLED].digest,
    )


def test_a_canary_whose_clients_are_content_is_promoted_by_them(on_blue: Target) -> None:
    with clients(on_blue, "/predict-temperature?x=0.3&y=0.5&t=0.1"):
        report = on_blue.shifter("green", on_blue.models[TWO], "run-2", CLIENTS).shift()
    assert (report["outcome"], report["after"]) == ("shifted", {"blue": 0, "green": 100}), report["problem"]


def test_a_canary_that_nobody_asks_is_taken_back_when_its_time_is_over(on_blue: Target) -> None:
    quiet = Settings((10,), Pace(0.5, 1, 3), probes_per_second=0)
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2", quiet).shift()
    assert (report["outcome"], report["restored"], report["after"]) == ("failed", True, {"blue": 100, "green": 0})
    assert "no verdict after" in report["problem"]
    assert set(logged(on_blue, 10)) == {Verdict.HOLD}


def test_weights_that_a_person_sets_at_a_step_end_the_canary_and_stay(on_blue: Target) -> None:
    found = []
    forever = Settings((20,), Pace(0.5, 30, 60), probes_per_second=10, latency_seconds=SLOW)
    shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2", forever)
    thread = threading.Thread(target=lambda: found.append(shifter.shift()))
    thread.start()
    eventually(lambda: on_blue.route().split, 30)
    on_blue.write_route(**routes.backends({"blue": 95, "green": 5}, SERVICES))
    began = time.monotonic()
    thread.join(30)
    assert time.monotonic() - began < 5
    assert (found[0]["outcome"], found[0]["restored"]) == ("failed", False)
    assert "somebody set blue=95 green=5" in found[0]["problem"]
    assert dict(on_blue.route().weights) == {"blue": 95, "green": 5}


def test_the_same_run_goes_on_at_the_step_where_it_died_and_can_still_go_back(on_blue: Target) -> None:
    write_only(on_blue.shifter("green", on_blue.models[TWO], "run-2", weight=50))
    quiet = Settings((20, 50), Pace(0.5, 1, 2), probes_per_second=0)
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2", quiet).shift()
    assert [step["weight"] for step in report["steps"]] == [50]
    assert (report["restored"], report["after"]) == (True, {"blue": 100, "green": 0})
    assert not on_blue.route().shifting
    # Once more: what was taken back is tried again from its first step.
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2", PROBED).shift()
    assert [step["weight"] for step in report["steps"]] == [20, 50]
    assert report["outcome"] == "shifted"
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2", PROBED).shift()
    assert (report["outcome"], report["steps"]) == ("unchanged", [])


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        (Settings((50,)), {"weight": 50}, "step-weights ends at 50"),
        (Settings((50,)), {"expiry_seconds": 10.0}, "interval-seconds is 5, expiry-seconds 10"),
    ],
)
def test_steps_that_do_not_fit_are_refused_before_any_write(on_blue: Target, settings, changes, reason: str) -> None:
    before = on_blue.everything()
    with pytest.raises(tekton.BadInput, match=reason):
        on_blue.shifter("green", on_blue.models[TWO], "run-2", settings, **changes)
    assert on_blue.everything() == before
