"""What `bench_events.py` plays with: a branch of many commits, listeners that are away, an API that refuses."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from e2e.cluster import Target
from e2e.events import LISTENERS, Events
from waiting import eventually

from isotherm_local.events import payloads

REFUSAL = "isotherm-bench-refusal"
TRIGGERS = "tekton-pipelines"  # the namespace of Triggers' own controllers
LEVELS = "config-logging-triggers"  # its ConfigMap; the controller hands it to every listener


@dataclass(frozen=True)
class Branch:
    """A bare repository whose branch `main` moves along prepared commits, each of which changes the data."""

    folder: Path
    url: str
    base: str
    commits: list[str]

    def move(self, sha: str) -> None:
        """Let `main` name a commit, as a push does."""
        subprocess.run(["git", "-C", str(self.folder), "update-ref", "refs/heads/main", sha], check=True)


def branch(target: Target, name: str, count: int) -> Branch:
    """Write the repository with git's fast-import."""
    folder = target.git_folder / f"{name}.git"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder)], check=True)
    # A server hands out commits by name only where it is told to: a reconciler asks for those that runs stand for.
    subprocess.run(["git", "-C", str(folder), "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    lines = []
    for number in range(count + 1):
        content = f"outs: [{{md5: {number:032x}, path: heatinv}}]\n"
        lines += [
            "commit refs/heads/all",
            f"committer bench <bench@lab.internal> {1764000000 + number} +0000",
            f"data {len(str(number))}", str(number), "M 100644 inline data/heatinv.dvc",
            f"data {len(content)}", content,
        ]  # fmt: skip
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "fast-import", "--quiet"], input="\n".join(lines) + "\n", text=True, check=True)
    listed = subprocess.run([*git, "rev-list", "--reverse", "all"], text=True, capture_output=True, check=True)
    base, *commits = listed.stdout.split()
    made = Branch(folder, f"{target.git}/{name}.git", base, commits)
    made.move(base)
    return made


@contextmanager
def away(space: Events, listener: str) -> Iterator[None]:
    """Take a listener away: no pod is left of it."""
    deployment = f"deployment/el-{listener}"
    space.kubectl("scale", deployment, "--replicas=0")
    try:
        yield
    finally:
        space.kubectl("scale", deployment, "--replicas=1")
        space.kubectl("rollout", "status", deployment, "--timeout=120s")


@contextmanager
def refusing(space: Events) -> Iterator[None]:
    """Let the API answer each creation of a PipelineRun here with 500: an admission webhook that nobody runs."""
    rule = {"apiGroups": ["tekton.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["pipelineruns"]}
    hook = {
        "name": "refusal.isotherm.dev", "rules": [rule], "failurePolicy": "Fail", "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:9/"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.namespace}},
    }  # fmt: skip
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    space.apply([{**kind, "metadata": {"name": REFUSAL}, "webhooks": [hook]}])
    try:
        yield
    finally:
        space.target.kubectl("delete", "validatingwebhookconfiguration", REFUSAL)


@contextmanager
def at_debug(space: Events) -> Iterator[None]:
    """Let Triggers log at debug: its controller, its webhook and the listeners."""
    own = ["-n", TRIGGERS]
    former = json.loads(space.target.kubectl(*own, "get", "configmap", LEVELS, "-o", "json"))["data"]
    loud = {name: "debug" for name in former if name.startswith("loglevel.")}
    loud["zap-logger-config"] = former["zap-logger-config"].replace('"level": "info"', '"level": "debug"')
    try:
        _levels(space, loud)
        yield
    finally:
        _levels(space, former)


def _levels(space: Events, data: dict[str, str]) -> None:
    """Change the ConfigMap, and wait until each listener has what the controller made of it."""
    patch = json.dumps({"data": data})
    space.target.kubectl("-n", TRIGGERS, "patch", "configmap", LEVELS, "--type=merge", "-p", patch)
    time.sleep(2)  # the controller takes the ConfigMap up by a watch
    # It brings a listener up to date when something of the listener changes.
    space.kubectl("annotate", "eventlisteners", "--all", "--overwrite", f"isotherm.dev/touched={time.time():.0f}")

    def taken_up() -> bool:
        wanted = data["loglevel.eventlistener"]
        listeners = [item for item in space.get("deployments")["items"] if item["metadata"]["name"].startswith("el-")]
        return all(_given_level(item) == wanted for item in listeners)

    eventually(taken_up, 60, every=1)
    for listener in LISTENERS:
        space.kubectl("rollout", "status", f"deployment/el-{listener}", "--timeout=120s")
    eventually(space.trusted, 120, every=3)


def _given_level(deployment: dict[str, Any]) -> str:
    """The level that the controller gave a listener."""
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    given = next(item["value"] for item in env if item["name"] == "K_LOGGING_CONFIG")
    return str(json.loads(json.loads(given)["zap-logger-config"])["level"])


def for_seconds(fault: Any, seconds: float) -> Thread:
    """Let a fault last, beside what else happens."""

    def last() -> None:
        with fault:
            time.sleep(seconds)

    thread = Thread(target=last)
    thread.start()
    return thread


@dataclass
class Sent:
    """What became of requests: answers by status, the time each took."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """A percentile of the times."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def count(self) -> dict[str, int]:
        """Answers by status."""
        return {str(status): self.statuses.count(status) for status in sorted(set(self.statuses))}


# One client for all: each of its own would spend its time on reading certificates.
CLIENT = httpx.Client(limits=httpx.Limits(max_connections=200))


def post(url: str, request: payloads.Request, sent: Sent, timeout: float = 30.0) -> None:
    """Send once, as a forge does: nothing is sent again."""
    began = time.monotonic()
    try:
        answer = CLIENT.post(url, content=request.body, headers=dict(request.headers), timeout=timeout)
        sent.statuses.append(answer.status_code)
    except httpx.HTTPError:
        sent.statuses.append(0)
    sent.seconds.append(time.monotonic() - began)


def paced(work: list[Callable[[], None]], per_second: float, *, workers: int = 64) -> None:
    """Start each at its time, whether or not those before it have ended: an open loop, as senders are."""
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for number, one in enumerate(work):
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            pool.submit(one)


def settled(space: Events, seconds: float = 60) -> dict[str, Any]:
    """The runs, once no more of them come."""
    counts: list[int] = []

    def still() -> bool:
        names = space.kubectl("get", "pipelineruns", "-o", "name")  # thousands: whole, they take seconds to read
        counts.append(names.count("\n"))
        return len(counts) > 3 and len(set(counts[-3:])) == 1

    eventually(still, seconds, every=2)
    return space.runs()


def restarts(space: Events) -> int:
    """How often a container of the namespace was started again."""
    statuses = [s for pod in space.get("pods")["items"] for s in pod["status"].get("containerStatuses", [])]
    return sum(int(status["restartCount"]) for status in statuses)
