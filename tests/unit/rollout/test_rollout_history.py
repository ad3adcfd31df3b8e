"""The checker of a Route's history sees what must never happen, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_history import Version, parse, unfounded, violations

from isotherm import contract
from isotherm.deploy import routes
from isotherm.rollout import decisions
from isotherm.rollout.judge import Judge, Look, Metric, Plan, Verdict
from isotherm.rollout.sequential import Counts

SERVICES = routes.pair("blue", "green")
UID, LATER = "run-2", "2026-11-30T22:00:00Z"


def at(number: int, green: int, *, token: int, expires: str = LATER, holder: str = UID, alone: bool = False) -> Version:
    """A version of a Route in a shift from blue to green."""
    weights = {"blue": 100 - green, "green": green}
    notes = {
        contract.ANNOTATION_DISABLE_COOKIES: "true", contract.ANNOTATION_SHIFT_HOLDER: holder,
        contract.ANNOTATION_SHIFT_TOKEN: str(token), contract.ANNOTATION_SHIFT_WEIGHTS: routes.describe(weights),
        contract.ANNOTATION_PREVIOUS: "blue", contract.ANNOTATION_SHIFT_EXPIRES: expires,
    }  # fmt: skip
    metadata = {"name": "plate", "resourceVersion": str(number), "annotations": notes}
    return parse({"metadata": metadata, **routes.backends(weights, SERVICES, alone=alone)}, SERVICES)


START = at(1, 0, token=0, expires="")
UP = at(2, 20, token=1)
SOUND = [START, UP, at(3, 50, token=2), at(4, 0, token=3, alone=True), at(5, 0, token=3, expires="", alone=True)]


def test_a_sound_history_has_no_violation() -> None:
    assert violations(SOUND, {UID: (20, 50, 100)}) == []


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (at(3, 50, token=1, holder="run-9"), "used before"),
        (at(3, 50, token=0), "the token fell"),
        (at(3, 50, token=3), "two writes for one token"),
        (at(3, 50, token=2, expires=""), "stands without an expiry"),
        (at(3, 50, token=2, holder="run-9"), "while run-2 was shifting"),
        (at(3, 0, token=2), "leaves both backends"),
        (at(3, 30, token=2), "is no step"),
    ],
)
def test_a_wrong_write_is_seen(after: Version, word: str) -> None:
    [found] = violations([START, UP, after], {UID: (20, 50, 100)})
    assert word in found


def log(folder: Path, said: Verdict) -> None:
    """The decision log of a step of 20 % in which nothing could be read, and of which this is said."""
    judge = Judge(Plan((Metric("errors", 0.01, 5.0, True),))).see(Look(problem="samples are NaN"))
    line = decisions.line(judge, Look(problem="samples are NaN")).replace(Verdict.HOLD.value, said.value)
    (folder / "020.jsonl").write_text(f"{decisions.header(judge.plan)}\n{line}\n")


@pytest.mark.parametrize(
    ("said", "word"), [(Verdict.PROMOTE, "its counts say HOLD"), (Verdict.HOLD, "ends with [<Verdict.HOLD")]
)
def test_a_step_after_one_that_was_not_to_be_promoted_is_seen(tmp_path: Path, said: Verdict, word: str) -> None:
    log(tmp_path, said)
    [found] = unfounded([START, UP, at(3, 50, token=2)], UID, tmp_path)
    assert word in found


def test_a_step_after_one_without_a_log_is_seen(tmp_path: Path) -> None:
    [found] = unfounded([START, UP, at(3, 50, token=2)], UID, tmp_path)
    assert "020.jsonl" in found


def test_a_step_after_a_promotion_is_none(tmp_path: Path) -> None:
    metric = Metric("errors", 0.01, 5.0, True)
    look = Look({"errors": (Counts(5, 2000), Counts(45, 18000))})
    judge = Judge(Plan((metric,))).see(look)
    assert judge.verdict() is Verdict.PROMOTE
    (tmp_path / "020.jsonl").write_text(f"{decisions.header(judge.plan)}\n{decisions.line(judge, look)}\n")
    assert unfounded([START, UP, at(3, 50, token=2)], UID, tmp_path) == []
