"""Argo's rule as the bench has it, on the cases of its own tests (analysis/analysis_test.go of v1.8.3)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from isotherm.rollout.sequential import Bounds, Counts, Evidence, rate_llr

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from argo_quality import least_requests
from argo_rule import Limits, Phase, Result, Setting, assess, at_least, measured, settings, verdict

FAILED, GOOD, ERROR, UNCLEAR = Phase.FAILED, Phase.SUCCESSFUL, Phase.ERROR, Phase.INCONCLUSIVE
RUNNING, PENDING = Phase.RUNNING, Phase.PENDING
BOTH = Limits(failure=4, consecutive_success=4)
BOTH_TEN = Limits(failure=4, consecutive_success=4, count=10)
ROW = Limits(failure=-1, consecutive_success=3)
ROW_FIVE, ROW_SEVEN = Limits(failure=-1, consecutive_success=5), Limits(failure=-1, consecutive_success=5, count=7)


def after(failed: int = 0, count: int = 0, row: int = 0, last: Phase = FAILED) -> Result:
    return Result(last, count=count, failed=failed, consecutive_success=row)


CASES = {
    # test of Argo's: limits, counters, the phase, and the phase where the run is being terminated
    "NoMeasurements": (Limits(), Result(), PENDING, GOOD),
    "InFlightMeasurement": (Limits(), Result(RUNNING, count=1), RUNNING, RUNNING),
    "FailureLimit, above": (Limits(failure=2), after(3, 3), FAILED, FAILED),
    "FailureLimit, at it": (Limits(failure=3), after(3, 3), RUNNING, GOOD),
    "ConsecutiveSuccessLimit, reached": (ROW, after(3, 7, 3), GOOD, GOOD),
    "ConsecutiveSuccessLimit, not yet": (ROW_FIVE, after(3, 7, 3), RUNNING, GOOD),
    "ConsecutiveSuccessLimit, not within the count": (ROW_SEVEN, after(3, 7, 3), FAILED, FAILED),
    "both, neither reached": (BOTH, after(3, 7, 3), RUNNING, GOOD),
    "both, failed": (BOTH, after(5, 9, 0), FAILED, FAILED),
    "both, succeeded": (BOTH, after(3, 8, 4), GOOD, GOOD),
    "both, failed and succeeded": (BOTH, after(5, 10, 4), FAILED, FAILED),
    "both, neither within the count": (BOTH_TEN, after(4, 10, 3), UNCLEAR, UNCLEAR),
    "both, failed within the count": (BOTH_TEN, after(5, 10, 3), FAILED, FAILED),
    "both, succeeded within the count": (BOTH_TEN, after(4, 10, 4), GOOD, GOOD),
    "both, before the count": (BOTH_TEN, after(3, 8, 3), RUNNING, GOOD),
    "InconclusiveLimit, above": (Limits(inconclusive=2), Result(UNCLEAR, 3, inconclusive=3), UNCLEAR, UNCLEAR),
    "InconclusiveLimit, at it": (Limits(inconclusive=3), Result(UNCLEAR, 3, inconclusive=3), RUNNING, GOOD),
    "ConsecutiveErrors, above": (Limits(), Result(ERROR, 5, consecutive_error=5), ERROR, ERROR),
    "ConsecutiveErrors, at it": (Limits(), Result(ERROR, 5, consecutive_error=4), RUNNING, GOOD),
    "CountReached": (Limits(count=10), after(0, 10, last=GOOD), GOOD, GOOD),
    "CountReached, inconclusive": (Limits(count=10), Result(GOOD, 10, inconclusive=5), UNCLEAR, UNCLEAR),
    "FailureInconclusiveOrError, one failure": (Limits(), after(1), FAILED, FAILED),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule_decides_as_argo_does(case: str) -> None:
    limits, result, phase, terminated = CASES[case]
    assert assess(limits, result) is phase
    assert assess(limits, result, terminating=True) is terminated


def test_a_measurement_that_had_an_error_is_not_counted_and_a_sound_one_forgives_it() -> None:
    # TestRunMeasurementsResetConsecutiveErrorCounter
    broken = measured(measured(Result(), ERROR), ERROR)
    assert (broken.count, broken.consecutive_error) == (0, 2)
    assert measured(broken, GOOD).consecutive_error == 0


def test_a_metric_ends_with_the_first_failure_above_its_limit_or_with_its_count() -> None:
    limits = Limits(failure=1, count=4)
    assert verdict(limits, [FAILED, GOOD, FAILED, GOOD]) == (FAILED, 3)
    assert verdict(limits, [FAILED, GOOD, GOOD, GOOD, FAILED]) == (GOOD, 4)
    assert verdict(limits, [FAILED, GOOD]) == (RUNNING, 2)


def test_tails_of_a_binomial_are_those_of_a_table() -> None:
    assert at_least(10, 0.5, 0) == 1
    assert at_least(10, 0.5, 8) == pytest.approx(56 / 1024)


def test_computed_shares_and_times_are_those_of_drawn_streams() -> None:
    one, rng, rate, tries = Setting(10, 100, 4, 1, 8), random.Random(1), 0.05, 1000
    windows = [[sum(rng.random() < rate for _ in range(100)) for _ in range(one.count)] for _ in range(tries)]
    ends = [verdict(one.limits, map(one.phase, errors)) for errors in windows]
    aborted = [number * one.interval for phase, number in ends if phase is FAILED]
    assert len(aborted) / tries == pytest.approx(one.aborted(rate), abs=0.02)
    assert sum(aborted) / len(aborted) == pytest.approx(one.seconds(rate), rel=0.05)


@pytest.mark.parametrize("interval", [10, 30, 60])
def test_every_setting_offered_is_sure_enough_and_the_quickest_comes_first(interval: int) -> None:
    found = settings(interval, 10, healthy=0.01, bad=0.05, wrong=0.001, missed=0.01, most=300)
    assert all(one.aborted(0.01) <= 0.001 and one.aborted(0.05) >= 0.99 for one in found)
    assert found[0].seconds(0.05) == min(one.seconds(0.05) for one in found)
    assert found[0].count * interval <= 300


def test_walds_own_test_needs_about_the_least_that_any_test_needs() -> None:
    healthy, bad, bounds, rng = 0.01, 0.05, Bounds.of(0.01, 0.01), random.Random(2)

    def ended(rate: float) -> tuple[Evidence, int]:
        llr, requests = 0.0, 0
        while (found := bounds.evidence(llr)) is Evidence.OPEN:
            llr, requests = llr + rate_llr(Counts(int(rng.random() < rate), 1), healthy, bad), requests + 1
        return found, requests

    good, ill = [ended(healthy) for _ in range(4000)], [ended(bad) for _ in range(4000)]
    aborted = sum(one is Evidence.WORSE for one, _ in good) / len(good)
    missed = sum(one is Evidence.FINE for one, _ in ill) / len(ill)
    mean = sum(requests for _, requests in ill) / len(ill)
    # That 20 of 4000 are aborted is known to a fifth only, which is a twentieth of the logarithm in the bound.
    assert mean / least_requests(healthy, bad, aborted, missed) == pytest.approx(1.0, abs=0.1)
