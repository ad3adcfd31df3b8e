"""Bars of a benchmark: a figure, its target, whether it holds, and the raw log it came from.

`build/bench/NAME.json` is a list of {"bar", "value", "unit", "target", "passed", "n", "raw"}, plus "note" where a bar
was cut down.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Bar:
    """One line of the benchmark. `raw` is a path relative to the checkout or a short table."""

    bar: str
    value: float | str | None
    unit: str
    target: str
    passed: bool
    n: int
    raw: str
    note: str | None = None

    def line(self) -> str:
        """Show the figure against its target."""
        value = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        note = f"  ({self.note})" if self.note else ""
        return (
            f"{'ok  ' if self.passed else 'MISS'} {self.bar:<34} {value:>12} {self.unit:<8} target {self.target}{note}"
        )


def at_most(
    bar: str, value: float | None, limit: float, unit: str, *, n: int, raw: str, note: str | None = None
) -> Bar:
    """Judge `value <= limit`; a value that could not be measured fails."""
    return Bar(bar, value, unit, f"<= {limit:g}", value is not None and value <= limit, n, raw, note)


def exactly(bar: str, value: int, wanted: int, unit: str, *, raw: str, note: str | None = None) -> Bar:
    """Judge `value == wanted` of `wanted` tries."""
    return Bar(bar, value, unit, f"{wanted} of {wanted}", value == wanted, wanted, raw, note)


def report(name: str, groups: list[Callable[[], list[Bar]]]) -> int:
    """Measure each group, print its bars as they come, write the JSON file;

    a group that breaks is a missed bar, not a lost run.
    """
    bars: list[Bar] = []
    path = BUILD / f"{name}.json"
    for group in groups:
        try:
            found = group()
        except Exception as error:
            found = [Bar(group.__name__, None, "", "measured", False, 0, f"{type(error).__name__}: {error}"[:500])]
        for bar in found:
            print(bar.line(), flush=True)
        bars += found
        rows = [{k: v for k, v in asdict(bar).items() if k != "note" or v is not None} for bar in bars]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=2) + "\n")
    missed = sum(not bar.passed for bar in bars)
    print(f"{len(bars) - missed} of {len(bars)} bars hold; written to {path.relative_to(ROOT)}")
    return 1 if missed else 0
