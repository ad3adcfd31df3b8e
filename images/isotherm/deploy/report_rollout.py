"""The picture of a canary: shares of the traffic over time, and how near each verdict was.

Input   the steps of shift.json
Output  coordinates of one SVG drawing, which the report page's template draws
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isotherm.deploy.report_inputs import Shift, Step

WIDTH, LEFT, RIGHT = 720.0, 46.0, 12.0
SHARES_TOP, SHARES_HEIGHT = 14.0, 130.0
EVIDENCE_TOP, EVIDENCE_HEIGHT = 176.0, 90.0
HEIGHT = EVIDENCE_TOP + EVIDENCE_HEIGHT + 26.0
Axis = Callable[[float], float]  # seconds -> x
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # s


@dataclass(frozen=True)
class Picture:
    """Polylines as SVG's `points`, and where words stand."""

    asked: str
    given: str
    observed: list[tuple[float, float, str]]
    worse: list[str]
    fine: list[str]
    verdicts: list[tuple[float, str, str]]  # x, word, tone
    shares: list[tuple[float, str]]
    evidence: list[tuple[float, str]]
    times: list[tuple[float, str]]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    shares_bottom: float = SHARES_TOP + SHARES_HEIGHT
    evidence_top: float = EVIDENCE_TOP
    evidence_bottom: float = EVIDENCE_TOP + EVIDENCE_HEIGHT


def draw(shift: Shift | None) -> Picture | None:
    """Lay out the picture of a shift; None for one that went all at once."""
    if shift is None or not shift.steps:
        return None
    steps = shift.steps
    ends = [*[step.began for step in steps[1:]], steps[-1].began + steps[-1].seconds]
    total = max(ends[-1], 1.0) * 1.06  # a little of what came after
    last = 1.0 if steps[-1].verdict == "PROMOTE" and not shift.restored else 0.0

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / total, 1)

    tick = next((one for one in TICKS if total / one <= 8), TICKS[-1])
    return Picture(
        asked=_stairs([(step.began, step.weight / 100) for step in steps], ends[-1], last, total, x),
        given=_stairs([(step.began, step.share) for step in steps], ends[-1], last, total, x),
        observed=[(x(step.began), _share(step.observed), f"{step.observed:.1%}") for step in steps],
        worse=[_line(step, 1, x) for step in steps],
        fine=[_line(step, 2, x) for step in steps],
        verdicts=[
            (x(end), step.verdict.lower(), "good" if step.verdict == "PROMOTE" else "failed")
            for step, end in zip(steps, ends, strict=True)
        ],
        shares=[(_share(part), f"{part:.0%}") for part in (0.0, 0.25, 0.5, 0.75, 1.0)],
        evidence=[(_near(part), word) for part, word in ((0.0, "0"), (1.0, "bound"))],
        times=[(x(at), _time(at)) for at in range(0, int(total) + 1, tick)],
    )


def _share(part: float) -> float:
    return round(SHARES_TOP + SHARES_HEIGHT * (1 - part), 1)


def _near(part: float) -> float:
    return round(EVIDENCE_TOP + EVIDENCE_HEIGHT * (1 - part), 1)


def _stairs(begins: Sequence[tuple[float, float]], end: float, last: float, total: float, x: Axis) -> str:
    points = [(x(0.0), _share(0.0))]
    for at, part in [*begins, (end, last)]:
        points += [(x(at), points[-1][1]), (x(at), _share(part))]
    points.append((x(total), points[-1][1]))
    return " ".join(f"{a},{b}" for a, b in points)


def _line(step: Step, column: int, x: Axis) -> str:
    return " ".join(f"{x(step.began + look[0])},{_near(look[column])}" for look in step.looks)


def _time(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:g} min"
