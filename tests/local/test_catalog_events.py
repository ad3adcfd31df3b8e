"""The catalog's own listeners, judged offline: each recorded event makes its run, and what is not entitled none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import interceptor_process
import pytest
import yaml

from isotherm.events import keys
from isotherm_local.events import offline, payloads

ROOT = Path(__file__).parents[2]
TRIGGERS = ROOT / "triggers"
LISTENERS = {
    "github": "git", "gitlab": "git", "gitea": "git", "alertmanager": "alerts", "grafana": "alerts",
    "mlflow": "registry", "lakefs-merge": "lakefs", "lakefs-commit": "lakefs", "schedule": "schedule",
}  # fmt: skip
SECRET = secrets.token_hex(16)
pytestmark = pytest.mark.usefixtures("replayer")


@pytest.fixture(scope="module")
def interceptor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with interceptor_process.running(tmp_path_factory.mktemp("secrets"), SECRET) as url:
        yield url


def judged(kind: str, interceptor: str, secret: str = SECRET, held: str = SECRET) -> offline.Report:
    request = payloads.request(kind, payloads.recorded(kind), secret.encode())
    passed = payloads.behind_the_door(request, secret.encode())
    return offline.replay(
        passed, LISTENERS[kind], [TRIGGERS], interceptors=[("mlflow", interceptor)], assumed=held.encode()
    )


@pytest.mark.parametrize("kind", LISTENERS)
def test_each_recorded_event_makes_one_run_under_its_name(kind: str, interceptor: str) -> None:
    [made] = judged(kind, interceptor).created
    pattern = payloads.names(kind, payloads.recorded(kind))
    assert pattern is not None
    assert pattern.fullmatch(made["metadata"]["name"])
    keys.check("it", made["metadata"]["name"], keys.KEY)
    params = {param["name"]: param["value"] for param in made["spec"]["params"]}
    assert params["event-key"] == made["metadata"]["annotations"]["isotherm.dev/event-key"] == made["metadata"]["name"]
    pipeline = made["spec"]["pipelineRef"]["name"]
    declared = yaml.safe_load((ROOT / f"pipelines/{pipeline}/{pipeline}.yaml").read_text())["spec"]
    assert set(params) <= {param["name"] for param in declared["params"]}
    tasks = {task["name"] for task in [*declared["tasks"], *declared["finally"]]}
    assert {spec["pipelineTaskName"] for spec in made["spec"]["taskRunSpecs"]} == tasks


@pytest.mark.parametrize("kind", LISTENERS)
def test_another_secret_makes_none(kind: str, interceptor: str) -> None:
    assert not judged(kind, interceptor, secret=secrets.token_hex(16)).created


@pytest.mark.parametrize("kind", [kind for kind, sender in payloads.SENDERS.items() if sender.door])
def test_a_token_alone_opens_no_listener(kind: str) -> None:
    """Only what the front door has signed passes; a sender that goes round it is told nothing."""
    request = payloads.request(kind, payloads.recorded(kind), SECRET.encode())
    assert not offline.replay(request, LISTENERS[kind], [TRIGGERS], assumed=SECRET.encode()).created


@pytest.mark.parametrize(("file", "made"), [("images/ops/Containerfile", 1), ("docs/events.md", 0)])
def test_a_push_that_touches_images_builds_them_and_another_does_not(file: str, made: int) -> None:
    sha = secrets.token_hex(20)
    body = payloads.changed(payloads.recorded("github"), [("after", sha), ("commits.0.modified:", f'["{file}"]')])
    request = payloads.request("github", body, SECRET.encode())
    report = offline.replay(request, "git", [ROOT / "overlays/build"], assumed=SECRET.encode())
    assert [run["metadata"]["name"] for run in report.created] == [keys.code_push("isotherm", sha)] * made
