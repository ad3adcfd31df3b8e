"""Every Task's program explains itself on stdout, though a step prints all else on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm_local.lint.model import Catalog
from isotherm_local.lint.steps import steps

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted({step["command"][2] for _, _, step in steps(Catalog(ROOT))})


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_is_on_stdout(module: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "images")}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage:")
