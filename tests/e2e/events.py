"""The catalog's triggers in a namespace of their own, and events sent to them as their senders would.

The runs are created pending, so that none trains: what becomes of a run is other tests' business.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import interceptor_process
import yaml
from lab.part import CHECKOUT
from waiting import eventually

from e2e import reach
from e2e.cluster import BUILD, Space, Target
from isotherm_local.events import offline, payloads

NAMESPACE = "api-events"
LISTENERS = ("git", "alerts", "registry", "lakefs", "schedule")
PUBLIC, INSIDE = 8081, 8080  # the front door's ports
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
SENT = "e2e-sender"  # a model that this namespace's listener knows beside the catalog's own
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
        known = [{"op": "add", "path": "/spec/triggers/0/interceptors/0/params/0/value/-", "value": SENT}]
        up = "/".join([".."] * len(folder.relative_to(CHECKOUT).parts))
        content = {
            "namespace": self.namespace,
            "resources": [f"{up}/tasks", f"{up}/pipelines", f"{up}/triggers", "listeners.yaml"],
            "patches": [
                {"target": {"kind": "TriggerTemplate"}, "patch": json.dumps(pending)},
                {"target": {"kind": "CronJob"}, "patch": json.dumps(asleep)},
                {"target": {"kind": "EventListener", "name": "registry"}, "patch": json.dumps(known)},
            ],
        }
        text = (CHECKOUT / "overlays/dev/listeners.yaml").read_text()
        (folder / "listeners.yaml").write_text(text.replace("isotherm-dev", self.namespace))
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        # Before the pods that mount them: kubelet takes up to a minute for a Secret that comes later.
        self.apply([self.secret(name) for name in self.keys])
        self.target.kubectl("apply", "-k", str(folder))
        eventually(self.ready, 180, every=1)
        self.door = self.get("service", "event-front-door")["spec"]["clusterIP"]
        eventually(self.trusted, 120, every=3)

    def trusted(self) -> bool:
        """Whether the listener has taken up the interceptor's CA, for which Triggers looks once a minute."""
        request = self.signed("mlflow", fresh("mlflow"))
        try:
            answer = self._post("mlflow", request)
        except httpx.TransportError:  # a Service whose pods are ready takes a moment to be reached
            return False
        if answer.is_server_error:  # by the front door too
            return False
        time.sleep(1)
        pattern = payloads.names("mlflow", json.loads(request.body))
        return pattern is not None and bool(self.matching(pattern.pattern))

    def offline(self, kind: str, folder: Path) -> list[Any]:
        """What the offline mode makes of the event that was sent last."""
        listener, holder = SENDERS[kind]
        (folder / "secret.yaml").write_text(yaml.safe_dump(self.secret(holder)))
        (folder / "mlflow").mkdir()
        with interceptor_process.running(folder / "mlflow", self.keys["webhook-mlflow"]["current"]) as url:
            places, asked = [BUILD / "events", folder / "secret.yaml"], [("mlflow", url)]
            passed = payloads.behind_the_door(self.sent, self.keys[holder]["current"].encode())
            return offline.replay(passed, listener, places, namespace=self.namespace, interceptors=asked).created

    def secret(self, name: str) -> dict[str, Any]:
        """A Secret as docs/events.md says."""
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": self.keys[name]}

    def ready(self) -> bool:
        """Whether every Deployment is there and has its pod ready."""
        items = self.get("deployments")["items"]
        wanted = {"event-interceptor", "event-front-door", *(f"el-{one}" for one in LISTENERS)}
        return {item["metadata"]["name"] for item in items} >= wanted and all(
            item["status"].get("readyReplicas", 0) == 1 for item in items
        )

    def send(self, kind: str, changes: Sequence[Change] = (), *, key: str = "current", secret: str = "") -> str:
        """Send a recorded payload; returns the name that its run is to have.

        A wrong token is refused at the door; a wrong signature by the listener, which has answered before it looks.
        """
        self.sent = request = self.signed(kind, changes, key=key, secret=secret)
        answer = self._post(kind, request)
        refused = bool(secret) and bool(payloads.SENDERS[kind].door)
        wanted = httpx.codes.UNAUTHORIZED if refused else httpx.codes.ACCEPTED
        assert answer.status_code == wanted, f"{answer.status_code} from {answer.url}: {answer.text[:300]}"
        pattern = payloads.names(kind, json.loads(request.body))
        return pattern.pattern if pattern else ""

    def _post(self, kind: str, request: payloads.Request) -> httpx.Response:
        return httpx.post(self.url(kind), content=request.body, headers=dict(request.headers), timeout=10)

    def signed(
        self, kind: str, changes: Sequence[Change] = (), *, key: str = "current", secret: str = ""
    ) -> payloads.Request:
        """A recorded payload with changes, as its sender signs it."""
        given = secret or self.keys[SENDERS[kind][1]][key]
        return payloads.request(kind, payloads.changed(payloads.recorded(kind), changes), given.encode())

    def url(self, kind: str) -> str:
        """Where its sender sends an event: forges and Grafana come from outside the cluster."""
        listener, _ = SENDERS[kind]
        path = kind if kind == "grafana" else listener
        return f"http://{self.door}:{PUBLIC if path in ('git', 'grafana') else INSIDE}/{path}"

    def runs(self) -> dict[str, Any]:
        """PipelineRuns by name."""
        return {item["metadata"]["name"]: item for item in self.get("pipelineruns")["items"]}

    def matching(self, pattern: str) -> list[str]:
        """Names of the runs that are called so."""
        return [name for name in self.runs() if re.fullmatch(pattern, name)]

    def alertmanager(self, *, group_by: list[str], repeat_interval: str) -> str:
        """Alertmanager's configuration that sends what asks for a retraining to the listener."""
        http = {"authorization": {"type": "Bearer", "credentials": self.keys["webhook-alerts"]["current"]}}
        webhook = {"url": self.url("alertmanager"), "send_resolved": True, "http_config": http}
        route = {
            "receiver": "nobody", "group_by": group_by, "group_wait": "1s", "group_interval": "1s",
            "repeat_interval": repeat_interval, "routes": [{"receiver": "retrain", "matchers": ['retrain="true"']}],
        }  # fmt: skip
        receivers = [{"name": "nobody"}, {"name": "retrain", "webhook_configs": [webhook]}]
        return yaml.safe_dump({"route": route, "receivers": receivers})

    def compare(self, sources: dict[str, Any]) -> None:
        """Tell the reconciler what to compare."""
        data = {"data": {"sources.yaml": yaml.safe_dump(sources)}}
        self.kubectl("patch", "configmap", "event-sources", "--type=merge", "-p", json.dumps(data))

    def reconcile(self, name: str) -> str:
        """One pass of the CronJob; returns what it printed."""
        self.kubectl("create", "job", name, "--from=cronjob/event-reconcile")
        self.kubectl("wait", f"job/{name}", "--for=condition=complete", "--timeout=300s")
        return self.kubectl("logs", f"job/{name}")


@contextmanager
def installed(target: Target, name: str) -> Iterator[Events]:
    """The triggers in a namespace of their own, removed afterwards with what stands beside it."""
    with reach.namespace(name, reach.RESTRICTED):
        space = Events(target, name)
        try:
            space.prepare()
            yield space
        finally:
            kinds = "clusterrole,clusterrolebinding"
            target.kubectl("delete", kinds, f"isotherm-listeners-{name}", "--ignore-not-found")


def watch(url: str) -> dict[str, str]:
    """The branch of a repository of measurements, as the reconciler's configuration has it."""
    return {
        "watch": "measurements", "repo-url": url, "branch": "main", "path": "data/heatinv", "template": "train-on-data",
    }  # fmt: skip


def fresh(kind: str) -> list[Change]:
    """Changes that make an event of this kind another event than all before it."""
    return {
        "git": [("after", secrets.token_hex(20))],
        "alerts": [("alerts.0.fingerprint", secrets.token_hex(8))],
        "registry": [("data.version", str(1 + secrets.randbelow(10**6)))],
        "lakefs": [("commit_id", secrets.token_hex(32))],
        "schedule": [("scheduled", f"20261124{secrets.randbelow(10**4):04d}")],
    }[SENDERS[kind][0]]
