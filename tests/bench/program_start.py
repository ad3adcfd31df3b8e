"""How fast every program answers --help: heavy imports belong inside functions.

Usage: python tests/bench/program_start.py [--json]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import yaml
from bars import ROOT

RUNS = 5
PEOPLE = ("isotherm.data.generate", "isotherm.data.infrared", "isotherm.data.publish", "isotherm.pinn.hardware")


def programs() -> list[tuple[str, str]]:
    """Return (environment, module) of every Task's step, the predictor and the programs for people."""
    found = [("pinn-api", "isotherm.predictor.serve"), ("local", "isotherm_local")]
    for folder in sorted(path.parent for path in ROOT.glob("tasks/*/CHANGELOG.md")):
        task = yaml.safe_load((folder / f"{folder.name}.yaml").read_text())
        for step in task["spec"]["steps"]:
            found.append((step["image"].rpartition("/")[2].partition(":")[0], step["command"][2]))
    return found + [("data" if ".data." in module else "pinn-trainer", module) for module in PEOPLE]


def seconds(environment: str, module: str) -> float:
    """Return the median wall time of `python -m MODULE --help` over RUNS runs after one warm-up."""
    command = [str(ROOT / f".venv/{environment}/bin/python"), "-m", module, "--help"]
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure() -> dict[str, float]:
    """Return seconds by module."""
    return {module: seconds(environment, module) for environment, module in programs()}


if __name__ == "__main__":
    table = measure()
    if "--json" in sys.argv:
        print(json.dumps(table))
    else:
        for name, value in sorted(table.items(), key=lambda row: -row[1]):
            print(f"{value:6.3f} s  {name}")
