"""Ten wrong inputs, each given to the real entry point as a user would: one line with cause and remedy, a non-zero
exit, nothing lost.

`CASES` maps each name to a function of a `World`; `row` runs one and judges it. tests/bench/wrong_inputs.py runs all
of them without short cuts, tests/local/test_wrong_inputs.py the cheap forms.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from deploy_target import CLAIM, IMAGE, ROOT
from wrong_world import CANDIDATE, EXAMPLE, LOCAL_PYTHON, Ended, World, fetch_run, task_run, workspace

from isotherm import contract
from isotherm_local.cluster import Cluster

OTHER_DIGEST = f"sha256:{'0' * 64}"
NO_HAPROXY_SECONDS = 5.0


@dataclass
class Seen:
    """What a case saw: commands that had to fail, what else was wrong, and how it went about it."""

    ended: list[Ended]
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    closed: str = ""  # last line of a gate that failed closed, where no command had to fail

    def expect(self, text: str, which: int = -1) -> None:
        """Require a text in a command's last line."""
        if text not in self.ended[which].line:
            self.wrong.append(f"the line does not say {text!r}")


def wrong_data(world: World) -> Seen:
    """Measurements with a NaN, fetched by the Pipeline."""
    seen = Seen([world.pipeline("wrong-data", data_path="data/torn")])
    seen.expect("data/torn/measurements.h5, column u, row 17: nan is not a finite number")
    reports = world.claim / "runs/wrong-data/reports"
    error = json.loads((reports / contract.REPORT_FETCH).read_text())["error"]
    if error not in seen.ended[0].line:
        seen.wrong.append("the Task's report has another cause than the last line")
    if "column u, row 17" not in (reports / contract.REPORT_PAGE).read_text():
        seen.wrong.append("the report page does not show the cause")
    if sorted(path.name for path in (world.claim / "data").iterdir()) != [world.dataset]:
        seen.wrong.append("the dataset was handed on")
    return seen


def unknown_param(world: World) -> Seen:
    """A param that the Pipeline does not have."""
    seen = Seen([world.pipeline("unknown-param", learning_rate="0.1")])
    seen.expect("Pipeline inverse-heat-pinn has no param learning-rate")
    return seen


def missing_workspace(world: World) -> Seen:
    """A PipelineRun that does not bind the Pipeline's workspace."""
    content = yaml.safe_load(EXAMPLE.read_text())
    del content["spec"]["workspaces"]
    seen = Seen([world.pipeline("missing-workspace", file=world.write("unbound", content))])
    seen.expect("workspace workspace is not bound")
    return seen


def dead_mlflow(world: World) -> Seen:
    """An MLflow server that is not there: by the whole Pipeline, or by one program with a short deadline."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"  # bound, never listening: refused for as long as it is held
        if world.thorough:
            seen = Seen([world.pipeline("dead-mlflow", mlflow_uri=uri, epochs="2")])
            seen.note = f"two attempts of train, 60 s each: {seen.ended[0].seconds:.0f} s"
        else:
            inputs = {"MODEL_NAME": "m", "MODEL_DIGEST": OTHER_DIGEST[7:], "MODEL_URI": "models:/m-1", "RUN_ID": "r"}
            inputs |= {"ALIAS": "challenger", "EXPECTED_CHAMPION": "", "PIPELINE_RUN": "", "MLFLOW_CREDENTIALS_DIR": ""}
            inputs |= {"REPORTS_DIR": str(world.folder / "dead"), "MLFLOW_URI": uri, "MLFLOW_DEADLINE_SECONDS": "2"}
            python = str(ROOT / ".venv/ops/bin/python")
            seen = Seen([world.call(python, "-m", "isotherm.registry.register", **inputs)])
            seen.note = "mlflow-register alone, deadline 2 s"
    seen.expect(f"MLflow at {uri} did not answer")
    return seen


@cache
def private_mounts() -> tuple[str, ...]:
    """How to mount unseen by others: `unshare`, as root or in a user namespace; empty where neither is permitted."""
    for options in ("-m", "-rm"):
        command = ("unshare", options)
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
            return command
    return ()


def mounted(script: str) -> list[str]:
    """Put a command behind mounts of its own; they end with it."""
    return [*private_mounts(), "/bin/sh", "-c", f'{script} && exec "$@"', "sh"]


def no_haproxy(world: World) -> Seen:
    """A machine without HAProxy and without a package manager: `make demo`'s set-up, its check, and the target."""
    tools = world.folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("git", "env"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name) or "/nowhere")
    setup = ROOT / "scripts/setup.py"
    folders = ["/usr/local/sbin", "/usr/sbin", "/sbin", *os.environ["PATH"].split(os.pathsep)]
    found = sorted({os.path.realpath(path) for folder in folders if (path := shutil.which("haproxy", path=folder))})
    stamps = {path: path.stat().st_mtime_ns for path in ROOT.glob(".venv/*/lock.sha256")}
    commands = [[sys.executable, str(setup), "demo"], [sys.executable, str(setup), "check"]]
    if private_mounts() or not found:
        hide = mounted(" && ".join(["true", *(f"mount --bind /dev/null {path}" for path in found)]))
        before, note = (hide, "HAProxy hidden by a private mount") if found else ([], "HAProxy is not installed here")
        up = [str(LOCAL_PYTHON), "-m", "isotherm_local", "up", "--state", str(world.folder / "never")]
        seen = Seen([world.call(*command, before=[*before, "/usr/bin/env", f"PATH={tools}"]) for command in commands])
        seen.ended.append(world.call(*up, before=[*before, "/usr/bin/env", f"PATH={tools}"]))
        seen.expect("HAProxy is not installed; run: ")
    else:
        # Without any mount the set-up's own search is all that can be made to fail.
        blind = f"import sys; sys.path.insert(0, {str(setup.parent)!r}); import setup; "
        blind += "setup.find_program = lambda name: name != 'haproxy'; raise SystemExit(setup.main())"
        calls = [[sys.executable, "-c", blind, *command[2:]] for command in commands]
        seen = Seen([world.call(*call, before=["/usr/bin/env", f"PATH={tools}"]) for call in calls])
        note = "no mount permitted: the set-up's search was told that there is none"
    seen.expect("haproxy not found", 0)
    seen.note = f"{note}; {seen.ended[0].seconds:.1f} s"
    if max(ended.seconds for ended in seen.ended) > NO_HAPROXY_SECONDS:
        seen.wrong.append(f"took more than {NO_HAPROXY_SECONDS:g} s")
    if stamps != {path: path.stat().st_mtime_ns for path in ROOT.glob(".venv/*/lock.sha256")}:
        seen.wrong.append("environments were changed")
    return seen


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def taken_port(world: World) -> Seen:
    """A port that somebody else listens on, for a target that is down; and another port for one that runs."""
    second = world.folder / "second"
    shutil.copytree(world.state / "api", second / "api", dirs_exist_ok=True)
    objects = files(second / "api")
    start = [str(LOCAL_PYTHON), "-m", "isotherm_local.cluster", "start"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        seen = Seen([world.call(*start, "--state", str(second), f"--{part}-port={port}") for part in ("mlflow", "api")])
        seen.ended += [world.call(*start, "--state", str(folder), f"--router-port={port}") for folder in
                       (world.state, second)]  # fmt: skip
    seen.expect(f"port {port} for router is taken")
    seen.expect("already runs with router on port", 2)
    if Cluster(second).status():
        seen.wrong.append("processes were left running")
    if files(second / "api") != objects:
        seen.wrong.append("objects were changed")
    return seen


@contextmanager
def read_only(place: Path) -> Iterator[tuple[list[str], str]]:
    """Make a folder read-only: give what to put before a command, and how it was done."""
    if private_mounts():
        bind = f"mount --bind {place} {place} && mount -o remount,ro,bind {place}"
        yield mounted(bind), "read-only mount of the command's own"
        return
    folders = [path for path in (place, *place.rglob("*")) if path.is_dir()]
    modes = {path: path.stat().st_mode for path in folders}
    try:
        for path in folders:
            path.chmod(0o555)
        yield [], "folders without write permission (no mount permitted; root writes them all the same)"
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def read_only_disk(world: World) -> Seen:
    """A disk that cannot be written: the whole state, the claim alone, and the state of a target to be started."""
    places = (world.state, world.claim, world.folder / "second")
    places[2].mkdir(exist_ok=True)
    up = [str(LOCAL_PYTHON), "-m", "isotherm_local", "up", "--state", str(places[2])]
    seen = Seen([])
    for place, name in zip(places, ("ro-state", "ro-claim", ""), strict=True):
        with read_only(place) as (before, note):
            if name:
                seen.ended.append(world.run(fetch_run(world), name=name, before=before))
            else:
                seen.ended.append(world.call(*up, before=before))
        seen.note = note
    for which in range(3):
        if not any(why in seen.ended[which].line for why in ("Read-only file system", "Permission denied")):
            seen.wrong.append(f"the line does not say why: {seen.ended[which].line}")
    return seen


def bad_yaml_field(world: World) -> Seen:
    """A step's misspelt field in a Task of the user's own, and in the PipelineRun itself."""
    task = yaml.safe_load((ROOT / "tasks/dvc-fetch/dvc-fetch.yaml").read_text())
    task["spec"]["steps"][0]["timeOut"] = "30m"
    file = world.write("dvc-fetch", task)
    run = yaml.safe_load(EXAMPLE.read_text())
    run["spec"]["timeout"] = "8h"
    seen = Seen([world.pipeline("bad-field", "--file", str(file))])
    seen.ended.append(world.pipeline("bad-field", file=world.write("run", run)))
    seen.expect("timeOut", 0)
    seen.expect("spec.timeout")
    return seen


def judge(world: World, name: str, **changes: str) -> Ended:
    """Run evaluate-metrics and, where it says pass, mlflow-register, as the Pipeline wires them."""
    params = {**world.candidate, **{key.replace("_", "-"): value for key, value in changes.items()}}
    folders = {"data": "data", "model": f"runs/{CANDIDATE}/model", "reports": f"runs/{name}/reports"}
    shutil.copytree(world.claim / f"runs/{CANDIDATE}/reports", world.claim / folders["reports"])
    register = {key: params[key] for key in ("model-name", "model-uri", "model-digest", "run-id", "mlflow-uri")}
    register |= {"alias": "challenger", "pipeline-run": name}

    def task(name: str, reference: str, values: dict[str, str], *used: str, **more: Any) -> dict[str, Any]:
        listed = [{"name": key, "value": value} for key, value in values.items()]
        places = [{"name": place, "workspace": "workspace", "subPath": folders[place]} for place in used]
        return {"name": name, "taskRef": {"name": reference}, "params": listed, "workspaces": places, **more}

    passed = {"input": "$(tasks.evaluate.results.verdict)", "operator": "in", "values": ["pass"]}
    tasks = [
        task("evaluate", "evaluate-metrics", params, "data", "model", "reports"),
        task("register", "mlflow-register", register, "reports", when=[passed]),
    ]
    spec = {
        "pipelineSpec": {"workspaces": [{"name": "workspace"}], "tasks": tasks},
        "workspaces": [{"name": "workspace", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    content = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": name}, "spec": spec}
    return world.run(world.write(name, content), name=name)


def nan_metrics(world: World) -> Seen:
    """A training that diverges is refused; a model whose answers are NaN fails the gate, and nothing is registered."""
    seen = Seen([])
    if world.thorough:
        seen.ended.append(world.pipeline("diverged", recipe="source", lr="1e308", epochs="2"))
        seen.expect("training diverged")
    ended = judge(world, "nan-metrics")
    tasks = world.record("nan-metrics")["tasks"]
    if ended.exit or tasks["register"]["state"] != "Skipped" or tasks["evaluate"]["results"]["verdict"] != "fail":
        seen.wrong.append(f"the gate did not fail closed: {ended.line}")
    report = json.loads((world.claim / "runs/nan-metrics/reports" / contract.REPORT_EVALUATION).read_text())
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    if failed != [contract.VAL_MISFIT] or report["metrics"][contract.VAL_MISFIT] is not None:
        seen.wrong.append(f"failed checks are {failed}")
    seen.closed = world.log("nan-metrics", "evaluate")[-1]
    seen.note = "also, the gate: " + seen.closed if world.thorough else "the gate says fail, which ends a run well"
    if "; " not in seen.closed:
        seen.wrong.append("the gate's last line names no remedy")
    return seen


def digest_mismatch(world: World) -> Seen:
    """Another model than the one asked for: at kserve-deploy, at evaluate-metrics, at the predictor's start."""
    params = {
        "model-name": world.target.model_name,
        "model-version": world.model.version,
        "model-digest": OTHER_DIGEST,
        "mlflow-uri": world.target.mlflow_url,
        "route": world.target.model_name,
        "router-url": world.target.router_url,
        "tls-termination": "none",
        "model-store": f"pvc://{CLAIM}/model-store",
        "predictor-image": IMAGE,
        "pipeline-run-uid": "run-2",
    }
    places = {"reports": "runs/digest/reports", "model-store": "model-store"}
    file = world.write("deploy", task_run("kserve-deploy", params, workspace(**places)))
    seen = Seen([world.run(file, name="digest")])
    seen.ended.append(judge(world, "digest-evaluate", model_digest=OTHER_DIGEST))
    reports = ("digest", contract.REPORT_DEPLOYMENT), ("digest-evaluate", contract.REPORT_EVALUATION)
    for ended, (run, name) in zip(seen.ended, reports, strict=True):
        if json.loads((world.claim / "runs" / run / "reports" / name).read_text())["error"] not in ended.line:
            seen.wrong.append(f"{name} has another cause than the last line")
    (stored,) = (world.claim / "model-store").glob("*/*")
    altered = world.folder / "altered"
    shutil.copytree(stored, altered)
    graph = altered / contract.MODEL_ONNX
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    serve = [str(ROOT / ".venv/pinn-api/bin/python"), "-m", "isotherm.predictor.serve", "--http_port", "0"]
    for folder, digest in ((stored, OTHER_DIGEST), (altered, world.model.digest)):
        variables = {"MODEL_DIGEST": digest, "MODEL_VERSION": "1.1.0", "TRACK": "blue", "PREDICTION_LOG_DIR": ""}
        seen.ended.append(world.call(*serve, "--model_dir", str(folder), **variables))
    for which in range(3):
        seen.expect(OTHER_DIGEST[:12], which)
    seen.expect("the manifest says")
    return seen


CASES: dict[str, Callable[[World], Seen]] = {
    "wrong data": wrong_data,
    "unknown param": unknown_param,
    "missing workspace": missing_workspace,
    "dead MLflow": dead_mlflow,
    "no HAProxy": no_haproxy,
    "taken port": taken_port,
    "read-only disk": read_only_disk,
    "bad YAML field": bad_yaml_field,
    "NaN metrics": nan_metrics,
    "model digest mismatch": digest_mismatch,
}


def row(world: World, name: str) -> dict[str, Any]:
    """Run one case and judge it: `kept` holds where everything that existed is the same and nothing is half-written."""
    before = world.kept()
    seen = CASES[name](world)
    after = world.kept()
    lost = [f"lost or changed: {key}" for key, value in before.items() if after.get(key) != value]
    lost += [f"left behind: {path}" for path in world.torn()]
    faults = [f"{problem}: {ended.line}" for ended in seen.ended if (problem := ended.problem())] + seen.wrong
    shown = next((ended for ended in seen.ended if ended.problem()), seen.ended[0] if seen.ended else None)
    return {
        "case": name,
        "exit": shown.exit if shown else 0,
        "line": shown.line if shown else seen.closed,
        "kept": not lost,
        "passed": not lost and not faults,
        "seconds": round(sum(ended.seconds for ended in seen.ended), 1),
        "note": seen.note,
        "faults": faults + lost,
    }
