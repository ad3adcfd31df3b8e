"""Every event reaches a real listener and makes one run, under its own name; what is not entitled makes none.

The runs are created pending, so that none trains: what becomes of a run is the other tests' business.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import yaml
from lab.part import CHECKOUT
from waiting import eventually

from e2e import measurements, reach
from e2e.cluster import BUILD, Space, Target
from isotherm import contract
from isotherm_local.events import payloads

pytestmark = pytest.mark.core
NAMESPACE = "api-events"
LISTENERS = ("git", "alerts", "registry", "lakefs", "schedule")
SENDERS = {
    "github": ("git", "webhook-git"),
    "gitlab": ("git", "webhook-git"),
    "gitea": ("git", "webhook-git"),
    "alertmanager": ("alerts", "webhook-alerts"),
    "grafana": ("alerts", "webhook-grafana"),
    "mlflow": ("registry", "webhook-mlflow"),
    "lakefs-merge": ("lakefs", "webhook-lakefs"),
    "lakefs-commit": ("lakefs", "webhook-lakefs"),
    "schedule": ("schedule", "webhook-schedule"),
}
BEARER = {"webhook-alerts", "webhook-grafana", "webhook-lakefs", "webhook-schedule"}
Change = tuple[str, str]


class Events(Space):
    """The catalog's triggers in a namespace, with secrets of this session."""

    def prepare(self) -> None:
        """Install, and wait until every listener is ready and trusts the interceptor."""
        self.keys = {name: {"current": secrets.token_hex(16), "previous": secrets.token_hex(16)} for name in
                     {secret for _, secret in SENDERS.values()}}  # fmt: skip
        folder = BUILD / "events"
        folder.mkdir(parents=True, exist_ok=True)
        pending = [{"op": "add", "path": "/spec/resourcetemplates/0/spec/status", "value": "PipelineRunPending"}]
        asleep = [{"op": "add", "path": "/spec/suspend", "value": True}]
        up = "/".join([".."] * len(folder.relative_to(CHECKOUT).parts))
        content = {
            "namespace": self.namespace,
            "resources": [f"{up}/tasks", f"{up}/pipelines", f"{up}/triggers", "listeners.yaml"],
            "patches": [
                {"target": {"kind": "TriggerTemplate"}, "patch": json.dumps(pending)},
                {"target": {"kind": "CronJob"}, "patch": json.dumps(asleep)},
            ],
        }
        text = (CHECKOUT / "overlays/dev/listeners.yaml").read_text()
        (folder / "listeners.yaml").write_text(text.replace("isotherm-dev", self.namespace))
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        self.target.kubectl("apply", "-k", str(folder))
        self.apply([self.secret(name) for name in self.keys])
        eventually(lambda: self.ready() == {True}, 180, every=1)
        self.addresses = {one: self.get("service", f"el-{one}")["spec"]["clusterIP"] for one in LISTENERS}

    def secret(self, name: str) -> dict[str, Any]:
        """A Secret as docs/events.md says: bearer tokens with the scheme before them."""
        scheme = "Bearer " if name in BEARER else ""
        data = {key: scheme + value for key, value in self.keys[name].items()}
        if name == "webhook-schedule":
            data["token"] = self.keys[name]["current"]
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}

    def ready(self) -> set[bool]:
        """Whether each Deployment has its pods ready."""
        items = self.get("deployments")["items"]
        names = {item["metadata"]["name"] for item in items}
        wanted = {"event-interceptor", *(f"el-{one}" for one in LISTENERS)}
        return {item["status"].get("readyReplicas", 0) == 1 for item in items} | (
            {True} if names >= wanted else {False}
        )

    def send(self, kind: str, changes: Sequence[Change] = (), *, key: str = "current", secret: str = "") -> str:
        """Send a recorded payload; returns the name that its run is to have."""
        listener, holder = SENDERS[kind]
        body = payloads.changed(payloads.recorded(kind), changes)
        given = (secret or self.keys[holder][key]).encode()
        request = payloads.request(kind, body, given)
        url = f"http://{self.addresses[listener]}:8080"
        answer = httpx.post(url, content=request.body, headers=dict(request.headers), timeout=10)
        assert answer.status_code == httpx.codes.ACCEPTED
        pattern = payloads.names(kind, body)
        return pattern.pattern if pattern else ""

    def runs(self) -> dict[str, Any]:
        """PipelineRuns by name."""
        return {item["metadata"]["name"]: item for item in self.get("pipelineruns")["items"]}


@pytest.fixture(scope="module")
def events(target: Target) -> Iterator[Events]:
    with reach.namespace(NAMESPACE, reach.RESTRICTED) as name:
        space = Events(target, name)
        try:
            space.prepare()
            yield space
        finally:
            kinds = "clusterrole,clusterrolebinding"
            target.kubectl("delete", kinds, f"isotherm-listeners-{name}", "--ignore-not-found")


def fresh(kind: str) -> list[Change]:
    """Changes that make an event of this kind another event than all before it."""
    return {
        "git": [("after", secrets.token_hex(20))],
        "alerts": [("alerts.0.fingerprint", secrets.token_hex(8))],
        "registry": [("data.version", str(1 + secrets.randbelow(10**6)))],
        "lakefs": [("commit_id", secrets.token_hex(32))],
        "schedule": [("scheduled", f"20261124{secrets.randbelow(10**4):04d}")],
    }[SENDERS[kind][0]]


def matching(events: Events, pattern: str) -> list[str]:
    return [name for name in events.runs() if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("kind", SENDERS)
def test_an_event_sent_three_times_by_old_and_new_secret_makes_one_run(events: Events, kind: str) -> None:
    event = fresh(kind)
    pattern = events.send(kind, event)
    eventually(lambda: matching(events, pattern), 30)
    events.send(kind, event)
    events.send(kind, event, key="previous")
    last = events.send(kind, fresh(kind), key="previous")
    eventually(lambda: matching(events, last), 30)
    [name] = matching(events, pattern)
    metadata = events.runs()[name]["metadata"]
    assert metadata["labels"][contract.LABEL_EVENT] == payloads.SENDERS[kind].label
    assert metadata["annotations"][contract.ANNOTATION_EVENT_KEY] == name


GIT = [("ref", "refs/heads/other"), ("commits.0.modified:", '["README.md"]'), ("after", "0" * 40),
       ("before", "$(tt.params.name)"), ("before:", '[",", ":"]'), ("commits:", "[]")]  # fmt: skip
ALERT = [("status", "resolved"), ("commonLabels.retrain", "false"), ("commonLabels.model", "another"),
         ("alerts.0.startsAt", "now"), ("alerts.0.fingerprint:", '["a"]'), ("alerts:", "[]")]  # fmt: skip
LAKEFS = [("branch_id", "other"), ("repository_id", "other"), ("event_type", "pre-merge"), ("commit_id:", '{"a": 1}')]
REFUSED = {
    "github": GIT, "gitea": GIT, "gitlab": GIT, "alertmanager": [*ALERT, ("version", "3")], "grafana": ALERT,
    "mlflow": [("data.alias", "challenger"), ("data.name", "another"), ("action", "deleted"), ("data.version", "1/2")],
    "lakefs-merge": LAKEFS, "lakefs-commit": LAKEFS, "schedule": [("model", "another"), ("scheduled", "tomorrow")],
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_entitled_makes_no_run(events: Events, kind: str) -> None:
    before = set(events.runs())
    events.send(kind, fresh(kind), secret=secrets.token_hex(16))
    for change in REFUSED[kind]:
        events.send(kind, [*fresh(kind), change])
    last = events.send(kind, fresh(kind))
    [name] = eventually(lambda: matching(events, last), 30)
    time.sleep(2)  # the listener works on each request by itself: an earlier one may end later
    assert set(events.runs()) - before == {name}


def test_the_reconciler_makes_the_run_of_a_lost_push(events: Events) -> None:
    """A listener that is away loses what a forge never sends again; the CronJob's next pass finds it."""
    origin = measurements.repository(events.target)
    first = measurements.publish(events.target, "heatinv", 1000, 1)
    config = {"git": [{"watch": "measurements", "repo-url": origin, "branch": "main", "path": "data/heatinv",
                       "template": "train-on-data"}]}  # fmt: skip
    data = {"data": {"sources.yaml": yaml.safe_dump(config)}}
    events.kubectl("patch", "configmap", "event-sources", "--type=merge", "-p", json.dumps(data))
    reconcile(events, "pass-1")
    lost = measurements.publish(events.target, "heatinv", 1100, 7)
    assert lost != first
    reconcile(events, "pass-2")
    name = f"data-measurements-{lost[:12]}"
    assert name in events.runs()
    events.send("github", [("after", lost)])
    count = len(events.runs())
    reconcile(events, "pass-3")
    assert len(events.runs()) == count


def reconcile(events: Events, name: str) -> None:
    """One pass of the CronJob."""
    events.kubectl("create", "job", name, "--from=cronjob/event-reconcile")
    eventually(lambda: events.get("job", name)["status"].get("succeeded"), 90, every=1)


def test_the_clock_makes_its_run_and_says_so(events: Events) -> None:
    """A CronJob names its Job by the minute for which it was due."""
    job = yaml.safe_load(events.kubectl("create", "job", "event-schedule-29400000", "--from=cronjob/event-schedule",
                                        "--dry-run=client", "-o", "yaml"))  # fmt: skip
    events.apply([job])
    eventually(lambda: events.get("job", "event-schedule-29400000")["status"].get("succeeded"), 90, every=1)
    assert [name for name in events.runs() if name.startswith("schedule-inverse-heat-pinn-20251124")]
