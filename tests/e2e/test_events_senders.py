"""Events from the real senders of the lab: a push to Gitea, a rule of Prometheus through Alertmanager, MLflow."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from lab import daemons, forge, golang, mlflow, watching
from lab.part import Lab
from lab.secrets import read as lab_secrets
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from waiting import eventually

from e2e.events import SENT, Events


@pytest.fixture(scope="module")
def lab(events: Events) -> Lab:
    """The lab; its servers are reconfigured here, so no other cluster will do."""
    if events.target.mlflow != mlflow.URL:
        pytest.skip("the senders are the lab's own")
    return Lab()


@pytest.fixture(scope="module")
def gitea(lab: Lab) -> Iterator[httpx.Client]:
    """Gitea's API as its administrator."""
    if not golang.built(lab, ["gitea"]):
        pytest.skip("Gitea is not built (make lab PARTS=gitea)")
    forge.start(lab)
    eventually(lambda: not forge.ready(lab), 60)
    login = (forge.ADMIN, lab_secrets(lab)["gitea"])
    with httpx.Client(base_url=f"{forge.URL}/api/v1", auth=login, timeout=20) as client:
        yield client


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=e2e", "-c", "user.email=e2e@lab.internal"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-300:]
    return done.stdout.strip()


def test_a_push_to_gitea_starts_its_run(events: Events, gitea: httpx.Client, tmp_path: Path) -> None:
    name = f"measurements-{secrets.token_hex(4)}"
    gitea.post("/user/repos", json={"name": name, "default_branch": "main"}).raise_for_status()
    hook = {
        "type": "gitea", "active": True, "events": ["push"], "branch_filter": "*",
        "config": {"url": events.url("gitea"), "content_type": "json",
                   "secret": events.keys["webhook-git"]["current"]},
    }  # fmt: skip
    gitea.post(f"/repos/{forge.ADMIN}/{name}/hooks", json=hook).raise_for_status()
    user, password = forge.ADMIN, lab_secrets(Lab())["gitea"]
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    remote = forge.URL.replace("://", f"://{user}:{password}@")
    pushed = []
    for file, content in (("README.md", "a"), ("data/heatinv.dvc", "b"), ("README.md", "c")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", content)
        git(tmp_path, "push", "--quiet", f"{remote}/{user}/{name}.git", "main")
        pushed.append(git(tmp_path, "rev-parse", "HEAD"))
    eventually(lambda: f"data-measurements-{pushed[1][:12]}" in events.runs(), 60, every=1)
    assert not {f"data-measurements-{sha[:12]}" for sha in (pushed[0], pushed[2])} & set(events.runs())


def test_an_alias_given_in_mlflow_starts_its_deployment(lab: Lab, events: Events) -> None:
    """The right alias of a model that the listener knows; another alias makes no run."""
    client = MlflowClient(events.target.mlflow, registry_uri=events.target.mlflow)
    with contextlib.suppress(MlflowException):
        client.create_registered_model(SENT)
    trained = client.create_run("0").info  # MLflow takes only a source that lies below its run's artifacts
    version = client.create_model_version(SENT, f"{trained.artifact_uri}/model", trained.run_id).version
    hook = client.create_webhook(
        name=f"e2e-{secrets.token_hex(4)}", url=events.url("mlflow"), events=["model_version_alias.created"],
        secret=events.keys["webhook-mlflow"]["current"],
    )  # fmt: skip
    try:
        before = set(events.runs())
        client.set_registered_model_alias(SENT, "e2e", version)
        client.set_registered_model_alias(SENT, "champion", version)
        # Champions of the catalog's own tests are told to this hook as well, and are another model's.
        name = f"deploy-{SENT}-v{version}"
        eventually(lambda: name in events.runs(), 60, every=1)
        assert {one for one in set(events.runs()) - before if SENT in one} == {name}
    finally:
        client.delete_webhook(hook.webhook_id)
        client.delete_registered_model(SENT)
        client.delete_run(trained.run_id)


@pytest.fixture
def alerting(lab: Lab, events: Events) -> Iterator[Path]:
    """Alertmanager that sends what asks for a retraining to the listener; gives Prometheus' folder of rules."""
    config, rules = lab.folder("etc") / "alertmanager.yaml", lab.folder("rules")
    before = config.read_text()
    config.write_text(events.alertmanager(group_by=["alertname", "model"], repeat_interval="2s"))
    reload(lab, "alertmanager")
    yield rules
    (rules / "drift.yaml").unlink(missing_ok=True)
    config.write_text(before)
    for daemon in ("prometheus", "alertmanager"):
        reload(lab, daemon)


def reload(lab: Lab, daemon: str) -> None:
    process = daemons.find(lab, daemon)
    assert process is not None
    process.signal(signal.SIGHUP)


def test_a_prometheus_rule_starts_one_retraining_though_its_alert_repeats(
    lab: Lab, events: Events, alerting: Path
) -> None:
    before = set(events.runs())
    labels = {"retrain": "true", "model": "inverse-heat-pinn", "severity": "warning", "case": secrets.token_hex(4)}
    asks = {"alert": "PinnDriftHigh", "expr": "vector(1)", "labels": labels}
    does_not = {"alert": "PinnSlow", "expr": "vector(1)", "labels": labels | {"retrain": "false"}}
    (alerting / "drift.yaml").write_text(yaml.safe_dump({"groups": [{"name": "drift", "rules": [asks, does_not]}]}))
    reload(lab, "prometheus")
    firing = f"http://{watching.NODE_IP}:{watching.ALERTMANAGER_PORT}/api/v2/alerts"

    def alert() -> dict[str, str] | None:
        found = [one for one in httpx.get(firing).json() if one["labels"].get("case") == labels["case"]]
        return next((one for one in found if one["labels"]["alertname"] == "PinnDriftHigh"), None)

    fingerprint = eventually(alert, 60)["fingerprint"]
    eventually(lambda: set(events.runs()) - before, 60)
    sent = sends(lab)
    eventually(lambda: sends(lab) >= sent + 3, 60)  # repeated meanwhile
    new = set(events.runs()) - before
    assert len(new) == 1
    assert new.pop().startswith(f"retrain-{fingerprint}-")


def sends(lab: Lab) -> float:
    """How many webhooks Alertmanager has sent."""
    text = httpx.get(f"http://{watching.NODE_IP}:{watching.ALERTMANAGER_PORT}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("alertmanager_notifications_total")]
    return sum(float(line.split()[-1]) for line in lines if 'integration="webhook"' in line)
