"""A Pipeline with the shape of `inverse-heat-pinn` whose steps do nothing: what Tekton and the cluster cost alone.

Same Tasks in the same order, one claim as workspace with the same subPaths, every result, `when`, `finally`; each step
only writes its results, which `/bin/true` could not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
Object = dict[str, Any]
IMAGE = "isotherm/base:0.1.0"
# What the results must say for every Task to run.
VALUES = {"verdict": "pass", "admitted": "true"}


def skeleton(name: str = "skeleton") -> Object:
    """The PipelineSpec of inverse-heat-pinn with every Task replaced by one that only writes its results."""
    pipeline = yaml.safe_load((ROOT / "pipelines/inverse-heat-pinn/inverse-heat-pinn.yaml").read_text())
    spec = pipeline["spec"]
    for task in [*spec["tasks"], *spec["finally"]]:
        task["taskSpec"] = _task(task.pop("taskRef")["name"])
        task["workspaces"] = [w for w in task["workspaces"] if "credentials" not in w["name"]]
    spec["workspaces"] = [w for w in spec["workspaces"] if "credentials" not in w["name"]]
    return {"apiVersion": "tekton.dev/v1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}


def _task(name: str) -> Object:
    task = yaml.safe_load((ROOT / "tasks" / name / f"{name}.yaml").read_text())["spec"]
    step, results = task["steps"][0], task.get("results", [])
    writes = " && ".join(f'printf %s "{VALUES.get(r["name"], "x")}" > "$R{n}"' for n, r in enumerate(results))
    paths = [{"name": f"R{n}", "value": f"$(results.{r['name']}.path)"} for n, r in enumerate(results)]
    kept = {key: task[key] for key in ("params", "results", "stepTemplate") if key in task}
    workspaces = [w for w in task.get("workspaces", []) if "credentials" not in w["name"]]
    return kept | {
        "workspaces": workspaces,
        "steps": [{"name": step["name"], "image": IMAGE, "command": ["sh", "-c", writes or "true"], "env": paths}],
    }
