"""Measure every bar of the local target afresh and write build/bench/local.json.

Usage: python tests/bench/local.py [GROUP ...]     (groups: clone_demo clone_test seeds start predictor kill wrong)

Run it on an otherwise idle machine. `clone_demo` and `clone_test` clone the last commit into a temporary folder with
empty caches; set-up is timed
apart, as the bars count from its end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import heatinv_seeds
import kill_resume
import predictor_latency
import program_start
import wrong_inputs
from bars import ROOT, Bar, at_most, exactly, keep, log, report

from isotherm import contract

REFERENCE_A = 1.10e-5  # m2/s, of the pouch cell (../shared/data/battery_pouch_cell_2d/SOURCE.txt, cited there)
_scratch = Path(tempfile.mkdtemp(prefix="isotherm-bench-"))


def clone() -> Path:
    """Clone the last commit beside a link to the shared folder, once."""
    folder = _scratch / "main"
    if not folder.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        if (ROOT.parent / "shared").exists():
            (_scratch / "shared").symlink_to(ROOT.parent / "shared")
    return folder


def make(target: str) -> tuple[int, float, Path]:
    """Run one make target in the clone with empty caches; return exit code, seconds and the log."""
    path = log(f"make-{target}.log")
    env = {**os.environ, "XDG_CACHE_HOME": str(_scratch / "cache"), "GOCACHE": str(_scratch / "cache" / "go-build")}
    began = time.monotonic()
    with path.open("w") as stream:
        done = subprocess.run(["make", target], cwd=clone(), env=env, stdout=stream, stderr=stream, check=False)
    return done.returncode, time.monotonic() - began, path


def clone_demo() -> list[Bar]:
    """`make demo` in a fresh clone: it succeeds, is fast enough, moves the traffic, and finds the pouch cell's `a`."""
    code, seconds, path = make("demo")
    raw = str(path.relative_to(ROOT))
    first = Bar("make demo in a fresh clone", code, "exit", "0", code == 0, 1, raw, f"{seconds:.0f} s with set-up")
    if code:
        return [first]
    home = clone() / "build" / "demo"
    summary = json.loads((home / "summary.json").read_text())
    table = keep("demo-summary", summary)
    heat = summary["runs"][0]
    space = home / "state" / "namespaces"
    reports = space / "isotherm-demo" / "pvcs" / "isotherm" / "runs" / "heatinv-v2" / "reports"
    parity = json.loads((reports / contract.REPORT_EVALUATION).read_text())["metrics"]["onnx_parity"]
    shift = json.loads((reports / contract.REPORT_SHIFT).read_text())
    share = heat["observed_share"]
    moved = heat["route_before"] != heat["route_after"]
    agrees = share["green"] == heat["route_after"]["green"] / 100
    versions = sorted(shift["live_version"]) if isinstance(shift["live_version"], list) else shift["live_version"]
    bars = [
        first,
        at_most(
            "HeatInv part of the demo", summary["servers_seconds"] + heat["seconds_total"], 90, "s", n=1, raw=table
        ),
        Bar("route_before != route_after", str(heat["route_after"]), "", "moved", moved, 1, table),
        Bar("observed share = weights", share["green"], "", "1.0", agrees, share["n"], table),
        Bar("live version through the Route", str(versions), "", "2", str(versions) == "2", share["n"], table),
        at_most("ONNX against torch", parity, 1e-6, "relative", n=512, raw=table),
    ]
    return bars + infrared(space)


def infrared(space: Path) -> list[Bar]:
    """Judge the demo's infrared run: mean `a`, rms of `u` on held-out sensors, training time."""
    reports = space / "isotherm-infrared" / "pvcs" / "isotherm" / "runs" / "infrared" / "reports"
    if not reports.exists():
        return [Bar("infrared run", None, "", "made", False, 0, "no ../shared/data here")]
    train = json.loads((reports / contract.REPORT_TRAIN).read_text())
    raw, metrics = keep("infrared-train", train), train["metrics"]
    off = abs(metrics["a_mean"] / REFERENCE_A - 1)
    verdict = json.loads((reports / contract.REPORT_EVALUATION).read_text())["verdict"]
    note = f"mean a {metrics['a_mean']:.3g} m2/s; gate verdict {verdict}"
    return [
        at_most("infrared: mean a off 1.10e-5 m2/s", off, 0.20, "relative", n=1, raw=raw, note=note),
        at_most("infrared: rms of u, held-out sensors", metrics["u_rms"], 0.11, "K", n=1, raw=raw),
        at_most("infrared: training", train["train_seconds"], 60, "s", n=len(train["restarts"]), raw=raw),
    ]


def clone_test() -> list[Bar]:
    """`make test` in the fresh clone; pytest's own time counts, its set-up does not."""
    code, seconds, path = make("test")
    raw = str(path.relative_to(ROOT))
    found = re.search(r"(\d+) passed.* in ([0-9.]+)s", path.read_text())
    count, inside = (int(found[1]), float(found[2])) if found else (0, None)
    return [
        Bar("make test in a fresh clone", code, "exit", "0", code == 0, count, raw, f"{seconds:.0f} s with set-up"),
        at_most("make test after set-up", inside, 480, "s", n=count, raw=raw),
    ]


def seeds() -> list[Bar]:
    """Five seeds of HeatInv."""
    rows = heatinv_seeds.measure()
    raw = keep("heatinv-seeds", rows)
    worst = max(row["a_rel_l2"] for row in rows)
    slowest = max(row["train_seconds"] for row in rows)
    return [
        exactly("HeatInv: gate passed", sum(row["gate"] for row in rows), len(rows), "seeds", raw=raw),
        at_most("HeatInv: worst a_rel_l2", worst, 0.03, "relative", n=len(rows), raw=raw),
        at_most("HeatInv: slowest training", slowest, 25, "s", n=len(rows), raw=raw, note="three restarts each"),
    ]


def start() -> list[Bar]:
    """--help of every program."""
    table = program_start.measure()
    slowest = max(table, key=lambda module: table[module])
    return [at_most("slowest --help", table[slowest], 0.7, "s", n=len(table), raw=keep("help", table), note=slowest)]


def predictor() -> list[Bar]:
    """Latency of a trained model where the demo left one, else of a small graph."""
    store = clone() / "build/demo/state/namespaces/isotherm-demo/pvcs/isotherm/model-store"
    model = next((path.parent for path in sorted(store.rglob(contract.MANIFEST_FILE))), None)
    figures = predictor_latency.measure(model)
    raw = keep("predictor", figures)
    note = "trained HeatInv model" if model else "small graph"
    bars = []
    for points, limit in ((1, 10), (1000, 20)):
        rows = {name: row["p95_ms"] for name, row in figures.items() if name.endswith(f"_{points}")}
        worst = max(rows.values())
        bars.append(
            at_most(f"predictor p95, {points} point(s)", worst, limit, "ms", n=figures["requests"], raw=raw, note=note)
        )
    return bars


def kill() -> list[Bar]:
    """Every Task killed once."""
    rows = kill_resume.measure()
    raw = keep("kill", rows)
    return [exactly("killed Tasks that complete again", sum(bool(r["passed"]) for r in rows), len(rows), "", raw=raw)]


def wrong() -> list[Bar]:
    """The ten wrong inputs."""
    rows = wrong_inputs.measure()
    raw = keep("wrong", rows)
    return [exactly("wrong inputs with one clear line", sum(row["passed"] for row in rows), len(rows), "", raw=raw)]


GROUPS = {f.__name__: f for f in (clone_demo, clone_test, seeds, start, predictor, kill, wrong)}

if __name__ == "__main__":
    chosen = [GROUPS[name] for name in sys.argv[1:]] or list(GROUPS.values())
    try:
        raise SystemExit(report("local", chosen, only_some=len(sys.argv) > 1))
    finally:
        shutil.rmtree(_scratch, ignore_errors=True)
