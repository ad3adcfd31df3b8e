"""Laws of the judge: what no order, grouping or number of looks may change, and what it must never do."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.rollout import decisions, samples
from isotherm.rollout.judge import Judge, Look, Metric, Plan, Verdict, judged, needed
from isotherm.rollout.sequential import Bounds, Counts, Evidence, rate_llr, ratio_llr

ERRORS = Plan((Metric("errors"),))
TWO = Plan((Metric("errors"), Metric("slow", required=False)))


@st.composite
def counts(draw: st.DrawFn, most: int = 500) -> Counts:
    total = draw(st.integers(0, most))
    return Counts(draw(st.integers(0, total)), total)


def look(canary: Counts, stable: Counts) -> Look:
    return Look({"errors": (canary, stable)})


@given(st.lists(st.tuples(counts(), counts()), max_size=20))
def test_statistics_add_up_whatever_the_looks(pairs: list[tuple[Counts, Counts]]) -> None:
    judge = Judge(ERRORS)
    for canary, stable in pairs:
        judge = judge.see(look(canary, stable))
    state = judge.states.get("errors")
    assert (state.rate if state else 0.0) == pytest.approx(
        rate_llr(sum((canary for canary, _ in pairs), Counts(0, 0)), 0.01, 0.05)
    )


@given(counts(), counts(), st.integers(2, 5))
def test_a_share_that_stays_may_be_looked_at_in_parts(canary: Counts, stable: Counts, parts: int) -> None:
    """The sum over equal parts is the statistic of the whole: only the share matters, not how often one looks."""

    def times(one: Counts) -> Counts:
        return Counts(one.bad * parts, one.total * parts)

    assert parts * ratio_llr(canary, stable, 5.0) == pytest.approx(ratio_llr(times(canary), times(stable), 5.0))


@given(counts(), counts())
def test_a_bad_answer_of_the_canary_speaks_against_it_and_one_of_stable_for_it(canary: Counts, stable: Counts) -> None:
    if not canary.total or not stable.total:
        assert ratio_llr(canary, stable, 5.0) == 0.0
        return
    if canary.bad < canary.total:
        assert ratio_llr(Counts(canary.bad + 1, canary.total), stable, 5.0) > ratio_llr(canary, stable, 5.0)
    if stable.bad < stable.total:
        assert ratio_llr(canary, Counts(stable.bad + 1, stable.total), 5.0) < ratio_llr(canary, stable, 5.0)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(1.1, 100))
def test_under_equal_rates_a_bad_answer_is_a_fair_bet(canary: int, stable: int, ratio: float) -> None:
    """E[exp(increment)] = 1 where a bad answer is the canary's with its share of requests: the martingale."""
    share = canary / (canary + stable)
    of_canary = math.exp(ratio_llr(Counts(1, canary), Counts(0, stable), ratio))
    of_stable = math.exp(ratio_llr(Counts(0, canary), Counts(1, stable), ratio))
    assert share * of_canary + (1 - share) * of_stable == pytest.approx(1.0)


@given(st.floats(1e-4, 0.4), st.floats(1.1, 2.0))
def test_at_the_tolerated_rate_an_answer_is_a_fair_bet(rate: float, ratio: float) -> None:
    worse = rate * ratio
    expected = rate * math.exp(rate_llr(Counts(1, 1), rate, worse)) + (1 - rate) * math.exp(
        rate_llr(Counts(0, 1), rate, worse)
    )
    assert expected == pytest.approx(1.0)


@given(st.lists(st.tuples(counts(), counts()), max_size=10))
def test_nothing_is_promoted_or_rolled_back_on_absence(pairs: list[tuple[Counts, Counts]]) -> None:
    """Looks that say nothing change no statistic, and the last one of them holds what would be promoted."""
    sound = [look(canary, stable) for canary, stable in pairs]
    before = Judge(ERRORS)
    for one in sound:
        before = before.see(one)
    after = before.see(Look(problem="Prometheus did not answer"))
    assert after.states == before.states
    assert after.verdict() is (Verdict.ROLLBACK if before.verdict() is Verdict.ROLLBACK else Verdict.HOLD)
    assert Judge(ERRORS).verdict() is Verdict.HOLD
    assert Judge(ERRORS).see(Look()).verdict() is Verdict.HOLD


@given(st.lists(st.tuples(counts(), counts()), max_size=10))
def test_a_look_without_answers_changes_no_verdict(pairs: list[tuple[Counts, Counts]]) -> None:
    verdicts = judged(ERRORS, [look(Counts(0, 0), Counts(0, 0)), *[look(*pair) for pair in pairs]])
    again = judged(ERRORS, [look(*pair) for pair in pairs])
    assert verdicts[1:] == again


def test_total_failure_takes_four_requests_and_silence_none() -> None:
    stable = Counts(0, 9)
    looks = [look(Counts(1, 1), stable)] * 6
    verdicts = judged(ERRORS, looks)
    assert verdicts.index(Verdict.ROLLBACK) == 3
    assert judged(ERRORS, [look(Counts(0, 0), Counts(50, 5000))] * 9) == [Verdict.HOLD] * 9


def test_a_canary_no_worse_than_a_failing_stable_is_not_rolled_back() -> None:
    assert Verdict.ROLLBACK not in judged(ERRORS, [look(Counts(3, 10), Counts(27, 90))] * 50)


def test_a_tolerated_rate_is_no_reason_though_stable_has_none() -> None:
    verdicts = judged(ERRORS, [look(Counts(1, 200), Counts(0, 1800))] * 20)
    assert Verdict.ROLLBACK not in verdicts
    assert verdicts[-1] is Verdict.PROMOTE


def test_a_metric_that_is_not_required_holds_nothing_but_rolls_back() -> None:
    fine = (Counts(0, 300), Counts(0, 2700))
    assert judged(TWO, [Look({"errors": fine})])[-1] is Verdict.PROMOTE
    worse = (Counts(150, 300), Counts(0, 2700))
    assert judged(TWO, [Look({"errors": fine, "slow": worse})])[-1] is Verdict.ROLLBACK
    assert judged(TWO, [Look({"slow": (Counts(0, 300), Counts(0, 2700))})])[-1] is Verdict.HOLD


def test_evidence_of_harm_outlives_a_lost_look_and_the_reason_names_it() -> None:
    judge = Judge(ERRORS).see(look(Counts(20, 20), Counts(0, 180))).see(Look(problem="no answer from Prometheus"))
    assert judge.verdict() is Verdict.ROLLBACK
    assert judge.reason() == "errors is worse: canary 20/20, stable 0/180"
    assert Judge(ERRORS).see(Look(problem="no answer")).reason() == "no answer"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Counts(2, 1),
        lambda: Counts(-1, 1),
        lambda: Metric("m", ratio=1.0),
        lambda: Metric("m", tolerated=0.0),
        lambda: Plan(()),
        lambda: Plan((Metric("m", required=False),)),
        lambda: Plan((Metric("m"), Metric("m"))),
        lambda: Plan((Metric("m"),), alpha=0),
        lambda: Bounds.of(0.01, 1.0),
        lambda: rate_llr(Counts(0, 1), 0.5, 0.5),
        lambda: ratio_llr(Counts(0, 1), Counts(0, 1), 1.0),
        lambda: Judge(ERRORS).see(Look({"other": (Counts(0, 1), Counts(0, 1))})),
    ],
)
def test_what_cannot_be_judged_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()  # type: ignore[operator]


def test_a_healthy_canary_needs_about_as_many_requests_as_is_told() -> None:
    told = needed(Metric("errors"), ERRORS, canary_share=0.1)
    assert 150 < told < 350
    bounds = ERRORS.bounds()
    assert bounds.evidence(bounds.worse) is Evidence.WORSE
    assert bounds.evidence(0) is Evidence.OPEN


@given(st.lists(st.tuples(counts(50), counts(450), st.booleans()), max_size=15))
def test_a_log_is_judged_again_to_the_same_verdicts(pairs: list[tuple[Counts, Counts, bool]]) -> None:
    judge, lines, said = Judge(ERRORS), [decisions.header(ERRORS, model="plate")], []
    for canary, stable, sound in pairs:
        one = look(canary, stable) if sound else Look(problem="no answer")
        judge = judge.see(one)
        lines.append(decisions.line(judge, one, step=10))
        said.append(judge.verdict())
    assert list(decisions.replay(lines)) == said


def test_a_log_that_was_changed_is_told() -> None:
    judge = Judge(ERRORS).see(one := look(Counts(20, 20), Counts(0, 180)))
    lines = [decisions.header(ERRORS), decisions.line(judge, one)]
    changed = json.loads(lines[1]) | {"verdict": "PROMOTE"}
    with pytest.raises(decisions.WrongLog, match="line 2 says PROMOTE, but its counts say ROLLBACK"):
        list(decisions.replay([lines[0], json.dumps(changed)]))
    for wrong in (
        [],
        ["[]"],
        ["{}"],
        ["{"],
        [lines[0], "{}"],
        [lines[0], '{"counts": {}, "problem": "", "verdict": "X"}'],
    ):
        with pytest.raises(decisions.WrongLog):
            list(decisions.replay(wrong))


EXPECTED = samples.Expected("c" * 64, "s" * 64, fresh_seconds=30)


def reading(bad: float, total: float, *, at: float = 100.0, digest: str = "c" * 64) -> samples.Reading:
    return samples.Reading(at, digest, {"errors": (bad, total)})


STABLE = reading(5, 900, digest="s" * 64)


def since(after: samples.Reading | None, before: samples.Reading | None = None, now: float = 110.0) -> Look:
    begin = before or reading(0, 0)
    return samples.look((begin, reading(5, 800, digest="s" * 64)), (after, STABLE), EXPECTED, now)


def test_counters_give_what_they_grew_by_and_start_again_with_their_pod() -> None:
    assert since(reading(3, 40), reading(1, 30)).counts["errors"] == (Counts(2, 10), Counts(0, 100))
    assert since(reading(1, 4), reading(3, 30)).counts["errors"][0] == Counts(1, 4)


@pytest.mark.parametrize(
    ("after", "now", "says"),
    [
        (None, 110, "no answer about canary"),
        (reading(math.nan, 10), 110, "errors is no count"),
        (reading(1, math.inf), 110, "errors is no count"),
        (reading(-1, 10), 110, "errors is no count"),
        (reading(11, 10), 110, "errors is no count"),
        (reading(1, 10, at=50), 110, "canary is 60 s old"),
        (reading(1, 10, at=math.nan), 110, "canary is nan s old"),
        (reading(1, 10, digest="x" * 64), 110, "canary is model xxxxxxxxxxxx, not cccccccccccc"),
        (reading(1, 10, digest=""), 110, "canary is model unknown"),
    ],
)
def test_what_is_odd_makes_a_problem_and_counts_nothing(after: samples.Reading | None, now: float, says: str) -> None:
    found = since(after, now=now)
    assert says in found.problem
    assert not found.counts
