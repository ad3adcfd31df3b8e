"""Kill each Task's process with SIGKILL, start the same PipelineRun again, and look for anything doubled or half-
written.

Usage: python tests/bench/kill_resume.py [--json] [TASK ...]

For each Task of Pipeline `inverse-heat-pinn`, in a namespace and with a model of its own: start the run, kill runner
and step as soon as the Task
runs, start the same name again (deleted and created, same workspace), and require: it completes, one model version,
one InferenceService, no
temporary file, every bundle equal to its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import ROOT

TASKS = ("fetch-data", "train", "evaluate", "register", "deploy", "shift", "promote", "report")
EXAMPLE = ROOT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml"
LIMIT_SECONDS = 240


def data_repository(home: Path) -> str:
    """Publish a small HeatInv batch with DVC; return the repository's path."""
    python = str(ROOT / ".venv/data/bin/python")
    batch, repository = home / "heatinv", home / "repository"
    generate = ["-m", "isotherm.data.generate", "heatinv", str(batch), "--points", "1500", "--seed", "5"]
    publish = ["-m", "isotherm.data.publish", str(batch), str(repository), "--remote", str(home / "remote")]
    subprocess.run([python, *generate], check=True, capture_output=True)
    subprocess.run([python, *publish, "--message", "batch"], check=True, capture_output=True)
    return str(repository)


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def kill_when_running(process: subprocess.Popen[bytes], record: Path, task: str) -> bool:
    """Wait until `task` runs, then SIGKILL the runner and its steps; False where the run ended before."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            state = json.loads(record.read_text())["tasks"].get(task, {}).get("state")
        except (OSError, json.JSONDecodeError):
            state = None
        if state == "Running":
            # Into the program's work, not its imports; training is long, the others last a few seconds.
            time.sleep(4.0 if task == "train" else 0.8)
            steps = children(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            for pid in steps:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.02)
    process.wait(timeout=LIMIT_SECONDS)
    return False


def half_written(space: Path) -> list[str]:
    """Return temporary files and bundles that differ from their manifest below a namespace's claims."""
    found = [str(path) for path in space.rglob("*") if path.name.startswith(".") and path.is_file()]
    for manifest in space.rglob("manifest.sha256"):
        for line in manifest.read_text().splitlines():
            digest, name = line.split("  ")
            if hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() != digest:
                found.append(str(manifest.parent / name))
    return found


def one(cluster: object, task: str, repository: str, state: Path) -> dict[str, object]:
    """Kill one Task, run again, and return what was found."""
    from kubernetes import client, config
    from mlflow import MlflowClient

    namespace = model = f"kill-{task}"
    command = [str(ROOT / ".venv/local/bin/python"), "-m", "isotherm_local", "run", str(EXAMPLE), "--name", "again"]
    command += ["-n", namespace, "--state", str(state), "--delete-first"]
    params = {
        "repo-url": repository,
        "mlflow-uri": cluster.mlflow_url,  # type: ignore[attr-defined]
        "router-url": cluster.router_url,  # type: ignore[attr-defined]
        "tls-termination": "none",
        "allow-source-image": "true",
        "model-name": model,
        "route": model,
        "restarts": "2",
    }
    command += [part for name, value in params.items() for part in ("-p", f"{name}={value}")]
    space = state / "namespaces" / namespace
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    killed = kill_when_running(first, space / "runs/again/run.json", task)
    second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=LIMIT_SECONDS)
    registry = MlflowClient(cluster.mlflow_url)  # type: ignore[attr-defined]
    versions = registry.search_model_versions(f"name='{model}'")
    config.load_kube_config(str(cluster.kubeconfig(namespace)))  # type: ignore[attr-defined]
    services = client.CustomObjectsApi().list_namespaced_custom_object(
        "serving.kserve.io", "v1beta1", namespace, "inferenceservices"
    )["items"]
    torn = half_written(space / "pvcs")
    holds = killed and second.returncode == 0 and len(versions) == 1 and len(services) == 1 and not torn
    return {
        "task": task,
        "killed": killed,
        "exit": second.returncode,
        "versions": len(versions),
        "inference_services": len(services),
        "half_written": torn,
        "passed": holds,
        "tail": "" if second.returncode == 0 else "\n".join((second.stdout + second.stderr).splitlines()[-6:]),
    }


def measure(tasks: tuple[str, ...] = TASKS) -> list[dict[str, object]]:
    """Start a local target of its own, kill each Task once, and stop it again."""
    from isotherm_local.cluster import Cluster

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory(prefix="isotherm-kill-") as folder:
        home = Path(folder)
        cluster = Cluster(home / "state")
        cluster.start()
        try:
            repository = data_repository(home)
            return [one(cluster, task, repository, home / "state") for task in tasks]
        finally:
            cluster.stop()


if __name__ == "__main__":
    chosen = tuple(word for word in sys.argv[1:] if not word.startswith("-")) or TASKS
    table = measure(chosen)
    if "--json" in sys.argv:
        print(json.dumps(table))
    else:
        for row in table:
            print(row)
    raise SystemExit(not all(row["passed"] for row in table))
