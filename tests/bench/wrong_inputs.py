"""Give ten wrong inputs to the real entry points: each must end in one line with cause and remedy, a non-zero exit,
and with everything that existed as it was.

Usage: python tests/bench/wrong_inputs.py [--json] [CASE ...]

A CASE is a name such as "taken port" (default: all ten). Starts an MLflow server and a local target of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from bars import ROOT

sys.path.append(str(ROOT / "tests"))
import mlflow_server
import wrong_cases
import wrong_world


def measure(names: Sequence[str] = tuple(wrong_cases.CASES)) -> list[dict[str, Any]]:
    """Run the cases one after another; returns rows {case, exit, line, kept, passed, seconds, note, faults}."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory(prefix="isotherm-wrong-") as folder, redirect_stdout(sys.stderr):
        home = Path(folder)
        (home / "mlflow").mkdir()
        port = mlflow_server.free_port()
        server = mlflow_server.start(home / "mlflow", port)
        url = f"http://127.0.0.1:{port}"
        try:
            mlflow_server.wait_until_up(server, url, home / "mlflow" / "server.log")
            with wrong_world.world(home / "world", url, thorough=True) as world:
                return [wrong_cases.row(world, name) for name in names]
        finally:
            mlflow_server.stop(server)


if __name__ == "__main__":
    table = measure(tuple(word for word in sys.argv[1:] if not word.startswith("-")) or tuple(wrong_cases.CASES))
    if "--json" in sys.argv:
        print(json.dumps(table))
    else:
        for row in table:
            kept = "kept" if row["kept"] else "LOST"
            print(f"{'ok  ' if row['passed'] else 'MISS'} {row['case']:<22} exit {row['exit']} {kept} {row['line']}")
            for more in (row["note"], *row["faults"]):
                print(f"{'':<28}{more}" if more else "", end="\n" if more else "")
    raise SystemExit(not all(row["passed"] for row in table))
