"""HeatInv over fresh seeds of noise and of nets: does the gate pass, how wrong is `a`, how long does training take?

Usage: python tests/bench/heatinv_seeds.py [--json] [SEED ...]

Each seed (default 101 to 105, on which nothing was tuned) makes its own noise on PINNacle's 2500 points (uniform points
where that file is missing) and its own starting weights; the trainer's own program trains three restarts, spawned
processes included in the time. CPU seconds are the whole program's, start and export included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bars import ROOT

from isotherm.data import benchmarks, schema
from isotherm.pinn import gate

POINTS = ROOT.parent / "shared" / "data" / "pinnacle_heatinv" / "heatinv_points.dat"
PYTHON = ROOT / ".venv" / "pinn-trainer" / "bin" / "python"
SEEDS = (101, 102, 103, 104, 105)


def train(seed: int, folder: Path) -> dict[str, Any]:
    """Generate, train and judge one seed; returns a row of the table."""
    data = folder / "data"
    benchmarks.generate(
        data, n=benchmarks.REFERENCE_POINTS, points_file=POINTS if POINTS.is_file() else None, seed=seed, noise=0.1
    )
    command = [PYTHON, "-m", "isotherm.pinn.train", "--data", data, "--seed", str(seed)]
    command += ["--model-dir", folder / "model", "--reports-dir", folder / "reports"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with (folder / "log").open("w") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, cwd=ROOT)
    cpu_seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    report = json.loads((folder / "reports" / "train.json").read_text())
    problem = schema.load(data).problem
    checks = gate.absolute_checks(report["metrics"], gate.limits({}, problem.gate.model_dump()), sigma_known=True)
    return {
        "seed": seed,
        "gate": all(check.passed for check in checks),
        **{
            name: report["metrics"][name] for name in ("a_rel_l2", "pde_loss", "val_residual", "val_misfit", "a_spread")
        },
        "train_seconds": report["train_seconds"],
        "program_cpu_seconds": cpu_seconds,
        "seconds_per_restart": [restart["seconds"] for restart in report["restarts"]],
    }


def measure(seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """Train every seed, one after the other; returns one row each."""
    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(train(seed, Path(folder)))
    return rows


def main() -> int:
    """Print the table, or JSON."""
    seeds = tuple(int(word) for word in sys.argv[1:] if word.isdigit()) or SEEDS
    rows = measure(seeds)
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return 0
    print("seed  gate  a_rel_l2  pde_loss  val_residual  val_misfit  a_spread  train_seconds  program_cpu_seconds")
    for r in rows:
        print(
            f"{r['seed']:4d}  {'pass' if r['gate'] else 'FAIL'}  {r['a_rel_l2']:8.4f}  {r['pde_loss']:8.1e}  "
            f"{r['val_residual']:12.1e}  {r['val_misfit']:10.3f}  {r['a_spread']:8.4f}  {r['train_seconds']:13.1f}"
            f"  {r['program_cpu_seconds']:19.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
