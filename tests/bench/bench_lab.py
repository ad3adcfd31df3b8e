"""Measure every bar of the lab afresh and write build/bench/lab.json.

Usage: PYTHONPATH=tests:scripts:images python tests/bench/bench_lab.py [GROUP ...]
Groups: warm overhead memory kills suite core     (`suite` runs the whole end-to-end suite five times)

Run it on an otherwise idle machine. `warm` takes the lab down and up again; the others use the one that is up.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import skeleton
from bars import ROOT, Bar, at_most, exactly, keep, log, report
from e2e import conftest, measurements
from e2e.cluster import Finished, Target
from lab import daemons
from lab.part import CHECKOUT, Lab

TRIES = 3
SUITES = 5
LANES = ("-n", "2", "--durations=60")  # as make e2e does


def run(name: str, *command: str) -> tuple[int, float, Path]:
    """Run a command with its output in a log; return exit code, seconds and the log."""
    path, began = log(f"{name}.log"), time.monotonic()
    with path.open("w") as stream:
        done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
    return done.returncode, time.monotonic() - began, path


def warm() -> list[Bar]:
    """Down and up again with everything built: seconds to a Ready core; nothing stays after `down`."""
    run("lab-down", sys.executable, "-m", "lab", "down")
    left = leftovers()
    code, seconds, path = run("lab-up", sys.executable, "-m", "lab", "up")
    raw = str(path.relative_to(ROOT))
    return [
        Bar("nothing stays after lab-down", len(left), "things", "0", not left, 1, keep("lab-leftovers", left)),
        at_most("lab up, warm", seconds if code == 0 else None, 90, "s", n=1, raw=raw),
    ]


def leftovers() -> list[str]:
    """Mounts, links, rules and processes that look like the lab's."""
    lab = Lab()
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "isotherm" in line]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob("lab0")]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [line for line in tables.splitlines() if "kube-proxy" in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(lab.state) in command or "/run/isotherm-lab" in command:
                found.append(command[:200])
    return found + ([str(lab.state)] if lab.state.exists() else [])


def catalog() -> conftest.Catalog:
    """The catalog installed afresh in namespace isotherm-dev, with one version of the measurements."""
    target = Target.find()
    space = conftest.Catalog(target, "isotherm-dev")
    target.kubectl("delete", "namespace", space.namespace, "--ignore-not-found", "--wait=true")
    conftest.wipe(space)
    space.install(str(CHECKOUT / "overlays" / "dev"))
    space.repository = measurements.repository(target)
    space.revisions = [measurements.publish(target, "heatinv", 1000, 1)]
    return space


def program_seconds(finished: Finished) -> float:
    """Time within the steps' containers, summed: the Tasks run one after the other."""
    total = 0.0
    for task_run in finished.task_runs:
        for step in task_run["status"].get("steps", []):
            ended = step["terminated"]
            total += (datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(ended["startedAt"])).seconds
    return total


def overhead() -> list[Bar]:
    """Wall time beside the programs' own, against a skeleton of the same shape on the same cluster, alternating."""
    space = catalog()
    space.apply([skeleton.skeleton()])
    rows = []
    for n in range(TRIES):
        # Another seed each time: the same model again would be an unchanged deployment.
        name = space.run(f"overhead-{n}", seed=str(40 + n), min_improvement="-1")
        ours = space.wait(name)
        spec = {**conftest.WORKSPACES, "pipelineRef": {"name": "skeleton"}}
        spec["workspaces"] = spec["workspaces"][:1]
        bare = space.wait(space.pipeline_run(conftest.MODEL, f"skeleton-{n}", space.params(), **spec))
        assert ours.succeeded, ours.condition
        assert bare.succeeded, bare.condition
        rows.append(
            {
                "wall": ours.seconds,
                "programs": program_seconds(ours),
                "overhead": ours.seconds - program_seconds(ours),
                "skeleton_wall": bare.seconds,
                "skeleton_overhead": bare.seconds - program_seconds(bare),
            }
        )
    ratio = statistics.median(row["overhead"] for row in rows) / statistics.median(r["skeleton_overhead"] for r in rows)
    raw = keep("lab-overhead", rows)
    note = f"median overhead {statistics.median(r['overhead'] for r in rows):.0f} s, steps' times are whole seconds"
    return [at_most("overhead / skeleton's", ratio, 1.3, "ratio", n=TRIES, raw=raw, note=note), *pods(space)]


def pods(space: conftest.Catalog) -> list[Bar]:
    """No pod of ours restarts, runs as root or needs a privilege; what each serving pod weighs."""
    rows = []
    for pod in space.get("pods")["items"]:
        statuses = pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", [])
        contexts = [c.get("securityContext", {}) for c in pod["spec"]["containers"]]
        own = pod["spec"].get("securityContext", {})
        rows.append(
            {
                "pod": pod["metadata"]["name"],
                "restarts": sum(status["restartCount"] for status in statuses),
                "root_possible": any(not c.get("runAsNonRoot", own.get("runAsNonRoot")) for c in contexts),
                "privilege": any(c.get("allowPrivilegeEscalation") is not False for c in contexts),
            }
        )
    raw = keep("lab-pods", rows)
    bad = [row for row in rows if row["restarts"] or row["root_possible"] or row["privilege"]]
    return [Bar("pods that restart, may be root, or want a privilege", len(bad), "pods", "0", not bad, len(rows), raw)]


def memory() -> list[Bar]:
    """What the idle lab takes: its daemons by resident size, each pod by its cgroup."""
    lab = Lab()
    node = {
        name: round(sum(p.rss_mib() for p in [found, *daemons.session(found.pid)[1:]]), 1)
        for name in daemons.names(lab)
        if (found := daemons.find(lab, name))
    }
    raw = keep("lab-memory", {"daemons_mib": node, "pods_mib": pod_memory(lab)})
    total = sum(node.values()) + sum(pod_memory(lab).values())
    return [Bar("memory of the idle lab", round(total), "MiB", "reported", True, len(node), raw)]


def pod_memory(lab: Lab) -> dict[str, float]:
    """Working set of each pod in MiB, as the kubelet's own summary gives it."""
    summary = json.loads(lab.kubectl("get", "--raw", "/api/v1/nodes/lab/proxy/stats/summary"))
    return {
        f"{pod['podRef']['namespace']}/{pod['podRef']['name']}": round(pod["memory"]["workingSetBytes"] / 2**20, 1)
        for pod in summary["pods"]
        if pod.get("memory", {}).get("workingSetBytes")
    }


def counted(name: str, *tests: str) -> tuple[int, int, float, str]:
    """Run pytest; return passed, failed, seconds, and the log."""
    code, seconds, path = run(name, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    last = path.read_text().strip().splitlines()[-1]
    passed, failed = (int(m[1]) if (m := re.search(rf"(\d+) {word}", last)) else 0 for word in ("passed", "failed"))
    return passed, max(failed, int(code != 0)), seconds, str(path.relative_to(ROOT))  # errors are not "failed"


def kills() -> list[Bar]:
    """Tekton's controller, KServe's, the router, MLflow and PostgreSQL die during a run, one at a time."""
    passed, _, _, raw = counted("lab-kills", "-s", "tests/e2e/test_restarts.py")
    killed = len(re.findall(r" dies while ", (ROOT / raw).read_text()))
    survived = killed if passed else 0
    return [exactly("parts killed in one run that converges, nothing doubled", survived, 5, "kills", raw=raw)]


def suite() -> list[Bar]:
    """The whole suite, five times in a row on one lab."""
    rows, tries = [], int(os.environ.get("SUITES", SUITES))
    for n in range(tries):
        passed, failed, seconds, raw = counted(f"lab-suite-{n}", *LANES, "tests/e2e")
        rows.append({"passed": passed, "failed": failed, "seconds": round(seconds), "raw": raw})
        table = keep("lab-suite", rows)
        print(f"suite {n + 1} of {tries}: {passed} passed, {failed} failed in {seconds:.0f} s", flush=True)
    green = sum(row["failed"] == 0 and row["passed"] > 0 for row in rows)
    note = None if tries == SUITES else f"{tries} times, not {SUITES}"
    slowest = max(row["seconds"] for row in rows)
    return [
        Bar("e2e green in a row", green, "times", f"{SUITES}", green == SUITES, tries, table, note),
        at_most("make e2e, slowest", slowest / 60, 25, "min", n=tries, raw=table),
    ]


def core() -> list[Bar]:
    """The part of the suite that .ci/run runs, by itself."""
    _, failed, seconds, raw = counted("lab-core", *LANES, "-m", "core", "tests/e2e")
    return [at_most("its core", seconds / 60 if not failed else None, 12, "min", n=1, raw=raw)]


GROUPS = {group.__name__: group for group in (warm, overhead, memory, kills, suite, core)}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(GROUPS)
    raise SystemExit(report("lab", [GROUPS[name] for name in chosen], only_some=bool(sys.argv[1:])))
