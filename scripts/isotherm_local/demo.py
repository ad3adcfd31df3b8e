"""The demonstration: from measurements to shifted traffic on one machine, through the catalog's own YAML.

Usage: python -m isotherm_local.demo [--stop]      (make demo, make demo-stop)

Reads   DATA: a folder with the infrared measurement (default ../shared/data/battery_pouch_cell_2d; skipped where
        absent);
        KEEP=1: leave the servers running
Writes  build/demo/: data repository, DVC remote, the local target's state, one report per run, and summary.json last

Three runs of Pipeline `inverse-heat-pinn`: HeatInv with 1,000 points (no champion yet: it lands on blue), HeatInv
with all 2,500 points (compared with
the first on its own held-out rows, lands on green, takes the traffic), and the infrared measurement with a model and
a Route of its own.
A second demonstration starts afresh: it stops the servers of the former one and replaces build/demo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotherm import contract, tekton

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "demo"
STATE = HOME / "state"
SUMMARY = HOME / "summary.json"
SHARED = ROOT.parent / "shared" / "data"
RUNS = ROOT / "pipelines" / "inverse-heat-pinn" / "runs"
NAMESPACE = "isotherm-demo"
INFRARED_NAMESPACE = "isotherm-infrared"


@dataclass(frozen=True)
class Stage:
    """One run of the Pipeline: which example PipelineRun, under which name, on which revision of the data."""

    name: str
    title: str
    example: str
    namespace: str
    data_path: str
    revision: str
    params: dict[str, str]


def program(environment: str, module: str, *arguments: str) -> str:
    """Run one of the catalog's programs in its image's environment and return its output."""
    command = [str(ROOT / ".venv" / environment / "bin" / "python"), "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise tekton.TaskError(f"{module}: {last}", remedy="see the message above")
    return done.stdout.strip()


def publish(folder: Path, message: str) -> str:
    """Add a dataset to the demonstration's data repository; return the commit."""
    arguments = [str(folder), str(HOME / "data-repository"), "--remote", str(HOME / "dvc-remote"), "--message", message]
    return program("data", "isotherm.data.publish", *arguments).splitlines()[-1]


def heatinv(points: int, seed: int) -> Path:
    """Generate a HeatInv batch at PINNacle's points where their file is at hand."""
    folder = HOME / "batches" / "heatinv"
    shutil.rmtree(folder, ignore_errors=True)
    file = SHARED / "pinnacle_heatinv" / "heatinv_points.dat"
    known = ["--points-file", str(file)] if file.exists() else []
    program(
        "data", "isotherm.data.generate", "heatinv", str(folder), "--points", str(points), "--seed", str(seed), *known
    )
    return folder


def infrared_source() -> Path | None:
    """Find the infrared measurement: DATA names it, else the folder beside the checkout. A wrong DATA is an error."""
    named = os.environ.get("DATA", "")
    folder = Path(named) if named else SHARED / "battery_pouch_cell_2d"
    if (folder / "Exp.mat").exists():
        return folder
    if named:
        raise tekton.BadInput(
            f"DATA is {named}, which holds no Exp.mat", remedy="name the folder of the infrared measurement"
        )
    return None


def stages(cluster: Any) -> list[Stage]:
    """Make the data versions and say which runs they get."""
    shared = {
        "repo-url": str(HOME / "data-repository"),
        "mlflow-uri": cluster.mlflow_url,
        "router-url": cluster.router_url,
        "tls-termination": "none",
        "allow-source-image": "true",
    }
    first = publish(heatinv(1000, seed=1), "HeatInv v1: 1,000 points")
    second = publish(heatinv(2500, seed=2), "HeatInv v2: 2,500 points")
    heat = ("heatinv", NAMESPACE, "data/heatinv")
    planned = [
        Stage("heatinv-v1", "HeatInv v1, 1,000 points: the baseline", *heat, first, shared),
        Stage("heatinv-v2", "HeatInv v2, 2,500 points: against the baseline", *heat, second, shared),
    ]
    if source := infrared_source():
        folder = HOME / "batches" / "infrared"
        program("data", "isotherm.data.infrared", str(source), str(folder))
        third = publish(folder, "Infrared thermography of a pouch cell")
        title = "Infrared measurement of a pouch cell"
        planned.append(Stage("infrared", title, "infrared", INFRARED_NAMESPACE, "data/infrared", third, shared))
    else:
        print("demo: no infrared measurement here (DATA=folder names one): the third run is left out", flush=True)
    return planned


def run_stage(stage: Stage) -> dict[str, Any]:
    """Run one stage through `isotherm run`;

    return its entry of summary.json. Raises `TaskError` when the run failed.
    """
    print(f"\n=== {stage.title} ===", flush=True)
    params = {**stage.params, "revision": stage.revision, "data-path": stage.data_path}
    command = [sys.executable, "-m", "isotherm_local", "run", str(RUNS / f"{stage.example}.yaml"), "--name", stage.name]
    command += ["-n", stage.namespace, "--state", str(STATE)]
    command += [part for name, value in params.items() for part in ("-p", f"{name}={value}")]
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    seconds = time.monotonic() - began
    if code:
        raise tekton.TaskError(
            f"run {stage.name} failed (exit {code})", remedy="the cause is above; its logs stay in build/demo"
        )
    return summarise(stage, seconds)


def summarise(stage: Stage, seconds: float) -> dict[str, Any]:
    """Read the run's own summary and record; copy its report page beside summary.json."""
    space = STATE / "namespaces" / stage.namespace
    reports = space / "pvcs" / "isotherm" / "runs" / stage.name / "reports"
    summary = tekton.read_report(reports / contract.REPORT_SUMMARY) or {}
    record = json.loads((space / "runs" / stage.name / "run.json").read_text())
    page = HOME / f"{stage.name}.html"
    shutil.copyfile(reports / contract.REPORT_PAGE, page)
    keys = (
        "dataset", "data_version", "pde_loss", "val_residual", "a_rel_l2", "verdict", "reason", "model_version",
        "route_before", "route_after", "observed_share",
    )  # fmt: skip
    return {
        "name": stage.name,
        **{key: summary.get(key) for key in keys},
        "seconds_by_task": {name: task.get("seconds") for name, task in record["tasks"].items()},
        "seconds_total": round(seconds, 2),
        "report": str(page.relative_to(ROOT)),
    }


def show(entry: dict[str, Any]) -> None:
    """Say in a few lines what a run came to."""
    share = entry["observed_share"] or {}
    error = f", a off by {entry['a_rel_l2']:.2%}" if entry["a_rel_l2"] is not None else ""
    print(f"demo: {entry['name']}: verdict {entry['verdict']}{error}; {entry['seconds_total']:.0f} s")
    print(f"demo: report {entry['report']}")
    if entry["route_after"]:
        moved = f"{entry['route_before']} -> {entry['route_after']}"
        print(f"demo: Route {moved}; observed green {share.get('green')} of {share.get('n')} answers", flush=True)


def demonstrate(cluster: Any) -> None:
    """Run every stage and write summary.json last."""
    began = time.monotonic()
    cluster.start()
    servers = time.monotonic() - began
    print(f"demo: servers ready in {servers:.1f} s", flush=True)
    entries = []
    for stage in stages(cluster):
        entries.append(run_stage(stage))
        show(entries[-1])
    summary = {"schema_version": 1, "servers_seconds": round(servers, 2), "baseline": entries[0], "runs": entries[1:]}
    tekton.write_atomic(SUMMARY, json.dumps(summary, indent=2) + "\n")


def goodbye(cluster: Any, keep: bool) -> None:
    """Say where to look."""
    print(f"\ndemo: summary  {SUMMARY.relative_to(ROOT)}")
    print(f"demo: picture  {HOME.relative_to(ROOT)}/heatinv-v2.html (open it in a browser)")
    if keep:
        host = f"inverse-heat-pinn-{NAMESPACE}.apps.localhost"
        print(f"demo: MLflow   {cluster.mlflow_url}")
        print(f"demo: model    curl -H 'Host: {host}' '{cluster.router_url}/predict-temperature?x=0.5&y=0.5&t=0.1'")
        print("demo: servers are running; `make demo-stop` ends them")
    else:
        print("demo: servers are stopped; `make demo KEEP=1` leaves MLflow, the predictors and the router running")


def main() -> int:
    """Run or stop the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stop", action="store_true", help="stop the servers that KEEP=1 left running")
    stop_only = parser.parse_args().stop
    keep = os.environ.get("KEEP", "") not in ("", "0")

    def run() -> None:
        from isotherm_local.cluster import Cluster

        cluster = Cluster(STATE)
        cluster.stop()
        if stop_only:
            print("demo: no server of the demonstration is running")
            return
        infrared_source()  # a wrong DATA is said before anything is replaced
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        try:
            demonstrate(cluster)
        finally:
            if not keep:
                cluster.stop()
        goodbye(cluster, keep)

    return tekton.main(run)


if __name__ == "__main__":
    raise SystemExit(main())
