"""Bars of a benchmark: a figure, its target, whether it holds, and the raw log it came from.

`build/bench/NAME.json` is a list of {"bar", "value", "unit", "target", "passed", "n", "raw"}, plus "note" where a bar
was cut down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"


def log(name: str) -> Path:
    """Name a raw log below build/bench."""
    path = BUILD / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def keep(name: str, content: Any) -> str:
    """Keep a raw table and return where."""
    path = log(f"{name}.json")
    path.write_text(json.dumps(content, indent=2) + "\n")
    return str(path.relative_to(ROOT))


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
    # numpy's own numbers and truths do not go into JSON
    figure = None if value is None else float(value)
    return Bar(bar, figure, unit, f"<= {limit:g}", figure is not None and figure <= limit, n, raw, note)


def exactly(bar: str, value: int, wanted: int, unit: str, *, raw: str, note: str | None = None) -> Bar:
    """Judge `value == wanted` of `wanted` tries."""
    return Bar(bar, value, unit, f"{wanted} of {wanted}", value == wanted, wanted, raw, note)


def seconds_log(name: str) -> str:
    """Where `report` keeps how long each group of a benchmark took."""
    return str(log(f"{name}-seconds.json").relative_to(ROOT))


def former(path: Path) -> list[dict[str, Any]]:
    """Read the rows of an earlier run, for a run of some groups only."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def report(name: str, groups: Iterable[Callable[[], list[Bar]]], *, only_some: bool = False) -> int:
    """Measure each group, print its bars as they come, write the JSON file;

    a group that breaks is a missed bar, not a lost run.
    """
    bars: list[Bar] = []
    path = BUILD / f"{name}.json"
    kept = former(path) if only_some else []
    seconds: dict[str, float] = {}
    for group in groups:
        began = time.monotonic()
        try:
            found = group()
        except Exception as error:
            found = [Bar(group.__name__, None, "", "measured", False, 0, f"{type(error).__name__}: {error}"[:500])]
        for bar in found:
            print(bar.line(), flush=True)
        bars += found
        called = getattr(group, "__name__", name)
        seconds[called] = time.monotonic() - began
        print(f"     {called}: {seconds[called]:.0f} s", flush=True)
        keep(f"{name}-seconds", seconds)
        rows = [{k: v for k, v in asdict(bar).items() if k != "note" or v is not None} for bar in bars]
        measured = {row["bar"] for row in rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([r for r in kept if r["bar"] not in measured] + rows, indent=2) + "\n")
    missed = sum(not bar.passed for bar in bars)
    print(f"{len(bars) - missed} of {len(bars)} bars hold; written to {path.relative_to(ROOT)}")
    return 1 if missed else 0
