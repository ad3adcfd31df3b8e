"""Driver isvc of route-shift on the embedded API: an InferenceService's own canary, from dark to settled and back."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from split_target import BAD, NAME, NAMESPACE, ONE, TWO, Target, dark, objects, quick, target
from waiting import eventually

from isotherm import contract, kube, tekton
from isotherm.deploy import canary, guard, notices, settle, shift, shifts
from isotherm.deploy.bake import Pace
from isotherm_local import live

__all__ = ["dark", "quick", "target"]
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # what KServe hands down to no pod
STABLE, CANARY = f"{NAME}-predictor", f"{NAME}-canary-predictor"
QUICK = canary.Settings(steps=(20, 50), pace=Pace(0.2, 0.4, 20), probes_per_second=200)


def settled_on(target: Target, digest: str) -> None:
    """The predictor alone is there, with this model, and the router answers with it."""
    split = target.split()
    assert (dict(split.weights), split.canary, split.shifting) == ({"blue": 100, "green": 0}, None, False)
    assert split.colours["blue"].digest == digest
    assert split.spec.predictor.minReplicas == 1
    eventually(lambda: objects(target)["Deployment"] == [STABLE], 10)


def test_a_first_model_is_the_predictor_and_a_next_one_a_dark_canary(target: Target) -> None:
    split = target.split()
    assert (dict(split.weights), split.live, split.token) == ({"blue": 100, "green": 0}, "blue", 0)
    assert (split.admitted, split.colours["blue"].digest) == (True, ONE)
    prepared = target.deploy(TWO, "run-2")
    assert (prepared.choice.colour, prepared.choice.outcome, prepared.workload) == ("green", "created", CANARY)
    stored = target.stored()
    [entry] = stored["spec"]["canary"]
    assert (entry["trafficPercent"], entry["predictor"]["name"]) == (0, "canary")
    # The predictor lends the canary a replica that it did not have before: its own stay.
    deployment = target.stored(kube.DEPLOYMENT, STABLE)
    assert (stored["spec"]["predictor"]["minReplicas"], deployment["spec"]["replicas"]) == (2, 1)
    assert objects(target)["Deployment"] == [CANARY, STABLE]
    assert target.platform.started == [STABLE, CANARY]
    again = target.deploy(TWO, "run-2")
    assert [change.action for change in again.changes] == ["keep", "keep"]
    assert target.deploy(ONE, "run-3").choice.outcome == "unchanged"


def test_a_canary_is_judged_promoted_and_settled_without_a_lost_request(dark: Target) -> None:
    report = dark.shifter("green", TWO, "run-2", QUICK).shift()
    assert (report["problem"], report["outcome"], report["driver"]) == ("", "shifted", "isvc")
    assert [(step["weight"], step["verdict"]) for step in report["steps"]] == [(20, "PROMOTE"), (50, "PROMOTE")]
    assert report["before"] == report["after"] == {"blue": 100, "green": 0}
    assert (report["live_colour"], report["live_digest"], report["live_version"]) == ("blue", TWO, "2")
    assert report["observed"]["green"] == 1.0
    assert sorted(path.name for path in (dark.reports / contract.REPORT_DECISIONS).iterdir()) == [
        "020.jsonl", "050.jsonl",
    ]  # fmt: skip
    settled_on(dark, TWO)
    split = dark.split()
    assert (split.holder, split.token) == ("run-2", 4)  # three weights, and back to the predictor
    assert split.annotations[contract.ANNOTATION_LIVE_DIGEST] == TWO
    assert "" not in {digest for _, digest in dark.platform.answered}
    # Each model was started once, and the predictor once more for the model that it took over: no write restarted one.
    assert dark.platform.started == [STABLE, CANARY, STABLE]
    event = notices.event("plates", split, notices.SHIFTED, "all", tekton.utcnow(), "route-shift")
    assert (event["regarding"]["kind"], event["regarding"]["apiVersion"]) == (
        "InferenceService", "serving.kserve.io/v1beta1",
    )  # fmt: skip


def test_the_same_run_again_changes_nothing(dark: Target) -> None:
    dark.shifter("green", TWO, "run-2").shift()
    before = dark.stored()["metadata"]["resourceVersion"]
    report = dark.shifter("green", TWO, "run-2").shift()
    assert (report["outcome"], report["live_digest"]) == ("unchanged", TWO)
    assert dark.stored()["metadata"]["resourceVersion"] == before
    assert dark.deploy(TWO, "run-2").choice.outcome == "unchanged"


def test_a_bad_canary_is_taken_back_and_its_pods_go(target: Target) -> None:
    target.deploy(BAD, "run-2")
    report = target.shifter("green", BAD, "run-2", QUICK).shift()
    assert (report["outcome"], report["restored"], report["steps"][-1]["verdict"]) == ("failed", True, "ROLLBACK")
    assert (report["live_colour"], report["live_digest"]) == ("blue", ONE)
    settled_on(target, ONE)
    assert target.split().annotations[contract.ANNOTATION_REJECTED_DIGEST] == BAD
    # Who wants that model may ask for it again, and another one takes its place.
    assert target.deploy(BAD, "run-3").choice.outcome == "created"
    assert target.deploy(TWO, "run-4").choice.outcome == "created"
    assert target.shifter("green", TWO, "run-4").shift()["outcome"] == "shifted"


def test_a_plain_split_stays_and_a_rollback_ends_it(dark: Target) -> None:
    report = dark.shifter("green", TWO, "run-2", weight=30).shift()
    assert (report["outcome"], report["after"]) == ("shifted", {"blue": 70, "green": 30})
    with pytest.raises(tekton.Refused, match=f"InferenceService {NAME} is being shifted"):
        dark.shifter("green", TWO, "run-3").shift()
    with pytest.raises(tekton.Refused, match="being shifted"):
        dark.deploy(BAD, "run-3")
    report = dark.shifter("previous", "", "rollback-1").shift()
    assert (report["problem"], report["after"], report["live_digest"]) == ("", {"blue": 100, "green": 0}, ONE)
    settled_on(dark, ONE)
    assert dark.shifter("previous", "", "rollback-1").shift()["outcome"] == "unchanged"


def test_status_shows_both_models_of_an_inference_service(dark: Target) -> None:
    api = dark.connect()._custom.api_client
    eventually(lambda: [len(one["backends"]) for one in live.read_status(api, NAMESPACE)] == [2], 10)
    [found] = live.read_status(api, NAMESPACE)
    assert (found["route"], found["driver"], found["shifting"]) == (NAME, "isvc", False)
    assert (found["live_colour"], found["model_digest"], found["model_version"]) == ("blue", ONE, "1.1.0")
    dark.shifter("green", TWO, "run-2", weight=30).shift()
    [found] = live.read_status(api, NAMESPACE)
    shown = [(one["colour"], one["service"], one["share"], one["model_digest"]) for one in found["backends"]]
    assert (found["shifting"], shown) == (True, [("blue", STABLE, 0.7, ONE), ("green", CANARY, 0.3, TWO)])
    dark.patch({"metadata": {"annotations": {contract.ANNOTATION_SHIFT: "[]"}}})
    [found] = live.read_status(api, NAMESPACE)
    assert ("unreadable annotation" in found["problem"], len(found["backends"])) == (True, 2)


def test_there_is_no_way_back_once_a_shift_is_settled(dark: Target) -> None:
    """A dark canary is no former model either: a rollback must not bring it to the clients."""
    for deployed in (True, False):
        with pytest.raises(tekton.Refused, match="keeps no model from before"):
            dark.shifter("previous", "", "rollback-1").shift()
        if deployed:
            dark.shifter("green", TWO, "run-2").shift()


def test_a_platform_that_stops_following_is_seen_on_the_data_plane(dark: Target) -> None:
    dark.platform.follows = False
    report = dark.shifter("green", TWO, "run-2", weight=50, verify_timeout_seconds=0.5).shift()
    assert (report["outcome"], report["restored"]) == ("failed", True)
    assert "blue gave 1.0000" in report["problem"]
    settled_on(dark, ONE)


def by_hand(target: Target, share: int) -> None:
    """What `oc edit inferenceservice` does."""
    entry = target.stored()["spec"]["canary"][0]
    target.patch({"spec": {"canary": [entry | {"trafficPercent": share}]}})


def test_a_person_who_sets_another_share_wins(dark: Target) -> None:
    slow = canary.Settings(steps=(20,), pace=Pace(0.2, 20, 30), probes_per_second=50)
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(dark.shifter("green", TWO, "run-2", slow).shift()))
    thread.start()
    eventually(lambda: dark.split().weights["green"] == 20, 10)
    time.sleep(0.3)
    by_hand(dark, 5)
    thread.join(20)
    assert (found[0]["outcome"], found[0]["restored"], found[0]["after"]) == ("failed", False, {"blue": 95, "green": 5})
    assert "somebody set blue=95 green=5" in found[0]["problem"]
    assert dark.split().foreign
    # The guard leaves it alone too.
    assert guard.Guard(dark.cluster, guarded()).look(tekton.utcnow() + timedelta(days=1)) == []
    assert dark.split().weights["green"] == 5


def test_a_person_between_read_and_write_wins(dark: Target) -> None:
    shifter = dark.shifter("green", TWO, "run-2")
    checked = shifter.check()
    by_hand(dark, 40)
    with pytest.raises(tekton.Refused, match=r"InferenceService plate .*blue=60 green=40"):
        shifter._write(shift.Course(checked, checked))
    assert dark.split().weights["green"] == 40


def test_a_write_that_changes_neither_weights_nor_models_does_not_stop_a_shift(dark: Target) -> None:
    shifter = dark.shifter("green", TWO, "run-2")
    checked = shifter.check()
    dark.patch({"metadata": {"annotations": {APPLIED: "{}"}}})
    assert shifter._write(shift.Course(checked, checked)).route.weights["green"] == 100


def guarded() -> dict[str, Any]:
    return guard.guarded({"GUARDED_MODEL": f"isvc:{NAME}"})


@pytest.mark.parametrize("weight", [1, 100])
def test_a_shift_whose_driver_dies_is_taken_back_and_then_taken_out(dark: Target, weight: int) -> None:
    shifter = dark.shifter("green", TWO, "run-2", weight=weight)
    checked = shifter.check()
    written = shifter._write(shift.Course(checked, checked)).route
    looks, now = guard.Guard(dark.cluster, guarded()), tekton.utcnow()
    assert looks.look(now) == []
    assert looks.look(now + timedelta(seconds=61)) == [f"isvc:{NAME}"]
    after = dark.split()
    assert (dict(after.weights), after.holder, after.token) == (
        {"blue": 100, "green": 0}, shifts.GUARD, written.token + 1,
    )  # fmt: skip
    assert after.canary is not None  # the router may not have heard of it yet
    eventually(lambda: dark.stored(kube.ROUTE)["spec"]["to"]["weight"] == 100, 5)
    later = now + timedelta(seconds=80)
    assert looks.look(later) == []
    settled_on(dark, ONE)
    assert dark.split().annotations[contract.ANNOTATION_SHIFT_ENDED].endswith("taken out")
    # The same model may be tried again, and the guard leaves it alone while it is dark.
    dark.deploy(TWO, "run-3")
    looks.look(later + timedelta(days=1))
    assert dark.shifter("green", TWO, "run-3").shift()["outcome"] == "shifted"


class Death(BaseException):
    """A SIGKILL: nothing of the driver runs after it."""


class Mortal(kube.Cluster):
    """A connection whose driver dies right before or right after its n-th write that takes place."""

    left, after = 10**6, False

    def patch(self, *arguments: Any) -> kube.Object:
        if self.left == 1 and not self.after:
            raise Death
        done = super().patch(*arguments)
        self.left -= 1
        if not self.left:
            raise Death
        return done


def mortal(target: Target, writes: int, *, after: bool) -> kube.Cluster:
    connection = target.connect(Mortal)
    assert isinstance(connection, Mortal)
    connection.left, connection.after = writes, after
    return connection


# Writes of a shift: the weights, the confirmation, the predictor's model, everything back to it, the canary out.
WRITES, CONFIRMED = 5, (2, True)
CRASHES = [(write, after) for write in range(1, WRITES + 1) for after in (False, True)]


@pytest.mark.parametrize(("write", "after"), CRASHES)
def test_a_run_that_dies_at_any_write_goes_on_from_there(dark: Target, write: int, after: bool) -> None:
    with pytest.raises(Death):
        dark.shifter("green", TWO, "run-2", cluster=mortal(dark, write, after=after)).shift()
    prepared = dark.deploy(TWO, "run-2")
    report = dark.shifter(prepared.choice.colour, TWO, "run-2").shift()
    assert (report["problem"], report["live_digest"]) == ("", TWO)
    settled_on(dark, TWO)
    assert "" not in {digest for _, digest in dark.platform.answered}


# After the confirmation the guard has nothing to do: once before it, once after, and at each half of the settling.
@pytest.mark.parametrize(("write", "after"), [(1, True), (2, False), (2, True), (3, True), (4, True)])
def test_a_run_that_dies_for_good_leaves_what_the_guard_makes_legal(dark: Target, write: int, after: bool) -> None:
    """Before the confirmation everything goes back; after it everything is on the new model, settled or not."""
    with pytest.raises(Death):
        dark.shifter("green", TWO, "run-2", cluster=mortal(dark, write, after=after)).shift()
    looks, now = guard.Guard(dark.cluster, guarded()), tekton.utcnow()
    looks.look(now + timedelta(seconds=61))
    split = dark.split()
    assert not split.shifting
    confirmed = (write, after) >= CONFIRMED
    live = split.live or ""
    assert split.colours[live].digest == (TWO if confirmed else ONE)
    if not confirmed:
        return
    if live == "green":
        with pytest.raises(tekton.Refused, match="not settled"):
            dark.deploy(BAD, "run-3")
        report = dark.shifter("green", TWO, "run-2").shift()
        assert report["problem"] == ""
    assert dark.split().colours["blue"].digest == TWO


def test_a_confirmed_shift_can_be_rolled_back_until_the_predictor_is_rewritten(dark: Target) -> None:
    with pytest.raises(Death):
        dark.shifter("green", TWO, "run-2", cluster=mortal(dark, 3, after=False)).shift()
    assert (dark.split().live, dark.split().shifting) == ("green", False)
    report = dark.shifter("previous", "", "rollback-1").shift()
    assert (report["problem"], report["live_digest"]) == ("", ONE)
    settled_on(dark, ONE)


def test_a_person_who_acts_while_the_predictor_takes_over_wins(dark: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real = settle.Settling._adopted

    def adopted(self: settle.Settling, split: Any) -> Any:
        by_hand(dark, 60)
        return real(self, split)

    monkeypatch.setattr(settle.Settling, "_adopted", adopted)
    report = dark.shifter("green", TWO, "run-2").shift()
    assert (report["outcome"], report["restored"], report["after"]) == (
        "failed", False, {"blue": 40, "green": 60},
    )  # fmt: skip
    assert dark.split().colours["blue"].digest == ONE


class Busy(kube.Cluster):
    """A connection whose writes meet another writer's first."""

    target: Target
    again = 2

    def patch(self, *arguments: Any) -> kube.Object:
        if self.again:
            self.again -= 1
            self.target.patch({"metadata": {"annotations": {APPLIED: str(self.again)}}})
        return super().patch(*arguments)


def test_conflicts_that_change_nothing_of_ours_are_overcome(dark: Target) -> None:
    connection = dark.connect(Busy)
    assert isinstance(connection, Busy)
    connection.target = dark
    report = dark.shifter("green", TWO, "run-2", cluster=connection).shift()
    assert (report["problem"], report["outcome"], connection.again) == ("", "shifted", 0)
    settled_on(dark, TWO)
