"""A step of a canary with sources that misbehave: it is promoted on evidence only, and always ends."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from isotherm.deploy.bake import Baked, Clock, Models, Pace, Step
from isotherm.rollout import decisions
from isotherm.rollout.judge import Metric, Plan, Verdict
from isotherm.rollout.samples import Reading

PLAN = Plan((Metric("errors"), Metric("latency"), Metric("residual", required=False)))
MODELS = Models("green", "blue", {"green": "new", "blue": "old"})
PACE = Pace(interval=5, bake=60, hold=300)


@dataclass
class Time(Clock):
    """A clock that moves when somebody sleeps; `wrong` is what the wall clock is off by."""

    at: float = 1_700_000_000.0
    wrong: float = 0.0

    def now(self) -> float:
        return self.at + self.wrong

    def elapsed(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class World:
    """Two models that are asked `rate` times a second each, and answer wrong as often as `bad` says."""

    time: Time
    bad: dict[str, float]
    rate: float = 10.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    counts: dict[str, list[int]] = field(default_factory=lambda: {"green": [700, 900], "blue": [3, 5000]})
    asked_at: float = 0.0

    def ask(self, seconds: float) -> None:
        """Requests of this time, as a step's `each`."""
        for colour, counts in self.counts.items():
            for _ in range(round(self.rate * seconds)):
                counts[0] += self.rng.random() < self.bad[colour]
                counts[1] += 1

    def read(self, colour: str) -> Reading | None:
        """A sound source."""
        bad, total = self.counts[colour]
        names = ("errors", "latency", "residual")
        return Reading(self.time.at, MODELS.digests[colour], dict.fromkeys(names, (bad, total)))


Change = Callable[[World, str, Reading], Reading | None]


@dataclass
class Changed:
    """A source whose readings are changed on the way."""

    world: World
    change: Change

    def read(self, colour: str) -> Reading | None:
        found = self.world.read(colour)
        assert found is not None
        return self.change(self.world, colour, found)


def world(green: float, blue: float = 0.01, **changes: float) -> World:
    return World(Time(), {"green": green, "blue": blue}, **changes)


def baked(one: World, tmp_path: Path, source: object | None = None, plan: Plan = PLAN) -> Baked:
    said: list[str] = []
    log = tmp_path / "decisions" / "010.jsonl"
    step = Step(plan, PACE, MODELS, [source or one], log, say=said.append, clock=one.time, weight=10)  # type: ignore[list-item]
    found = step.run(one.ask)
    assert said
    lines = log.read_text().splitlines()
    # The log alone leads to the last verdict again; a step that ends by its deadline held until then.
    assert list(decisions.replay(lines))[-1] in (found.verdict, Verdict.HOLD)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_canary_is_promoted_once_it_has_baked(seed: int, tmp_path: Path) -> None:
    one = world(0.01)
    one.rng = random.Random(seed)
    found = baked(one, tmp_path)
    assert (found.verdict, found.seconds >= PACE.bake) == (Verdict.PROMOTE, True)
    # What was counted before the step began counts for nothing.
    assert found.counts["errors"][0][0] < 100


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_canary_is_rolled_back_before_it_has_baked(seed: int, tmp_path: Path) -> None:
    one = world(0.3)
    one.rng = random.Random(seed)
    found = baked(one, tmp_path)
    assert found.verdict is Verdict.ROLLBACK
    assert found.seconds < PACE.bake
    assert "is worse" in found.reason


def test_readings_that_take_their_time_are_none_from_the_future(tmp_path: Path) -> None:
    def slow(one: World, _colour: str, reading: Reading) -> Reading:
        one.time.at += 1.5 * PACE.interval  # both together take three, a sample is fresh for two
        return replace(reading, at=one.time.at)

    one = world(0.01)
    assert baked(one, tmp_path, Changed(one, slow)).verdict is Verdict.PROMOTE


def test_what_both_models_do_is_no_reason_for_a_rollback(tmp_path: Path) -> None:
    assert baked(world(0.2, 0.2), tmp_path).verdict is Verdict.PROMOTE


def silent(_: World, __: str, found: Reading) -> None:
    return None


def canary_silent(_: World, colour: str, found: Reading) -> Reading | None:
    return None if colour == "green" else found


def with_counters(value: tuple[float, float], *colours: str) -> Change:
    def change(_: World, colour: str, found: Reading) -> Reading:
        return Reading(found.at, found.digest, dict.fromkeys(found.counters, value)) if colour in colours else found

    return change


def empty(_: World, __: str, found: Reading) -> Reading:
    return Reading(found.at, found.digest)


def frozen(_: World, __: str, found: Reading) -> Reading:
    return Reading(1_700_000_000.0, found.digest, found.counters)


def nameless(_: World, __: str, found: Reading) -> Reading:
    return Reading(found.at, "", found.counters)


def late(_: World, __: str, found: Reading) -> Reading:
    return Reading(found.at - 30, found.digest, found.counters)


def without_a_required_one(_: World, __: str, found: Reading) -> Reading:
    return Reading(found.at, found.digest, {"errors": found.counters["errors"]})


ABSENCE = {
    "no answer at all": silent,
    "no answer about the canary": canary_silent,
    "NaN": with_counters((math.nan, math.nan), "green", "blue"),
    "infinite": with_counters((0.0, math.inf), "green"),
    "negative": with_counters((-1.0, 100.0), "blue"),
    "more bad answers than answers": with_counters((10.0, 1.0), "green"),
    "no counters": empty,
    "counters that stand still": with_counters((0.0, 1000.0), "green", "blue"),
    "samples that are always the same": frozen,
    "samples that are too old": late,
    "samples of nobody knows which model": nameless,
    "a required metric is missing": without_a_required_one,
}


@pytest.mark.parametrize("change", ABSENCE.values(), ids=ABSENCE.keys())
@pytest.mark.parametrize("rate", [0.0, 10.0])
def test_nothing_is_promoted_on_absence_and_the_deadline_ends_it(change: Change, rate: float, tmp_path: Path) -> None:
    one = world(0.0, 0.0, rate=rate)
    found = baked(one, tmp_path, Changed(one, change))
    assert found.verdict is Verdict.ROLLBACK
    assert PACE.hold <= found.seconds < PACE.hold + 2 * PACE.interval
    assert "no verdict after" in found.reason


@pytest.mark.parametrize("wrong", [-300.0, 300.0])
def test_a_clock_that_is_five_minutes_off_holds(wrong: float, tmp_path: Path) -> None:
    one = world(0.0, 0.0)
    one.time.wrong = wrong
    assert baked(one, tmp_path).verdict is Verdict.ROLLBACK


def test_counters_that_start_again_count_from_zero(tmp_path: Path) -> None:
    one = world(0.01)
    looks = itertools.count()

    def restarted(world: World, colour: str, found: Reading) -> Reading:
        if colour == "green" and next(looks) == 4:
            world.counts["green"] = [0, 0]
            return Reading(found.at, found.digest, dict.fromkeys(found.counters, (0.0, 0.0)))
        return found

    assert baked(one, tmp_path, Changed(one, restarted)).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("colour", ["green", "blue"])
def test_a_model_that_changes_during_the_step_ends_it(colour: str, tmp_path: Path) -> None:
    one, looks = world(0.0), itertools.count()

    def changed(_: World, which: str, found: Reading) -> Reading:
        other = which == colour and next(looks) >= 3
        return Reading(found.at, "another", found.counters) if other else found

    found = baked(one, tmp_path, Changed(one, changed))
    assert (found.verdict, found.seconds) == (Verdict.ROLLBACK, 3 * PACE.interval)
    assert f"{colour} became model another" in found.reason


def test_an_outage_of_a_source_holds_and_what_was_counted_meanwhile_is_judged_after_it(tmp_path: Path) -> None:
    one, looks = world(0.2), itertools.count()

    def away(_: World, colour: str, found: Reading) -> Reading | None:
        return None if 1 <= next(looks) // 2 < 6 else found

    found = baked(one, tmp_path, Changed(one, away))
    assert found.verdict is Verdict.ROLLBACK
    assert found.seconds == 6 * PACE.interval
    assert found.counts["errors"][0][1] == 6 * PACE.interval * one.rate
