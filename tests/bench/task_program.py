"""A Task's program as a process on this machine, with the environment that its step has: every variable of the step,
filled in from params and their defaults, workspaces and results as folders here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from bars import ROOT

from isotherm_local.processes import last_line

REFERENCE = re.compile(r"\$\((params|workspaces|results)\.([a-z0-9-]+)(?:\.path)?\)")


def task(name: str) -> dict[str, Any]:
    """A Task of the catalog."""
    found: dict[str, Any] = yaml.safe_load((ROOT / f"tasks/{name}/{name}.yaml").read_text())
    return found


def environment(
    of: Mapping[str, Any], params: Mapping[str, str], workspaces: Mapping[str, Path], results: Path
) -> dict[str, str]:
    """The step's variables; a workspace that is not given is one that is not bound, its path empty."""
    spec = of["spec"]
    values = {("params", one["name"]): one.get("default", "") for one in spec["params"]}
    values |= {("params", name): value for name, value in params.items()}
    values |= {("results", one["name"]): str(results / one["name"]) for one in spec["results"]}
    values |= {("workspaces", one["name"]): str(workspaces.get(one["name"], "")) for one in spec["workspaces"]}
    return {
        one["name"]: REFERENCE.sub(lambda found: values[found[1], found[2]], one["value"])
        for one in spec["steps"][0]["env"]
    }


def own(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """All variables of the process: the step's, and what a process needs on this machine."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT / "images")} | dict(variables)


def start(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start Python with these arguments and variables in a folder; its log is `folder/log`, anew with each start."""
    env = own(variables, folder)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log
        )


def said(folder: Path) -> str:
    """What the program said last."""
    return last_line(folder / "log")[:300]
