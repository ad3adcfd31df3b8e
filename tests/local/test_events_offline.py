"""What a listener makes of an event, judged by Triggers' own code without a cluster."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import Quiet, served

from isotherm import tekton
from isotherm_local import cli
from isotherm_local.events import offline, payloads

SAMPLE = Path(__file__).parent / "sample_triggers.yaml"
CURRENT, PREVIOUS = secrets.token_hex(16), secrets.token_hex(16)
SHA = "0123456789abcdef0123456789abcdef01234567"
pytestmark = pytest.mark.usefixtures("replayer")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the listeners' Secrets, one written as text and one as data."""
    path = tmp_path_factory.mktemp("secrets") / "secrets.yaml"
    encoded = {key: base64.b64encode(f"Bearer {value}".encode()).decode() for key, value in _pair().items()}
    documents = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "webhook"}, "stringData": _pair()},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "webhook-bearer"}, "data": encoded},
    ]
    path.write_text(yaml.safe_dump_all(documents))
    return path


def _pair() -> dict[str, str]:
    return {"current": CURRENT, "previous": PREVIOUS}


def asked(
    listener: str, kind: str, secret: str, *files: Path, sets: list[tuple[str, str]] | None = None, **more: Any
) -> offline.Report:
    payload = payloads.changed(payloads.recorded(kind), sets or [])
    return offline.replay(payloads.request(kind, payload, secret.encode()), listener, [SAMPLE, *files], **more)


def posted(listener: str, body: object, headers: dict[str, str] | None = None) -> offline.Report:
    request = payloads.Request("github", headers or {}, json.dumps(body).encode())
    return offline.replay(request, listener, [SAMPLE])


def reasons(report: offline.Report) -> dict[str, str]:
    return {outcome.trigger: outcome.reason for outcome in report.outcomes}


@pytest.mark.parametrize("kind", ["github", "gitea"])
@pytest.mark.parametrize("secret", [CURRENT, PREVIOUS], ids=["current", "previous"])
def test_a_push_signed_with_either_secret_makes_one_run_with_its_name(kind: str, secret: str, held: Path) -> None:
    report = asked("git", kind, secret, held, sets=[("after", SHA)])
    assert report.status == 202
    assert [made["metadata"]["name"] for made in report.created] == [f"data-sample-{SHA[:12]}"]
    metadata, spec = report.created[0]["metadata"], report.created[0]["spec"]
    assert metadata["annotations"]["isotherm.dev/revision"] == SHA
    assert metadata["namespace"] == "default"
    assert metadata["labels"].items() >= {"isotherm.dev/event": "git", "triggers.tekton.dev/trigger": "push"}.items()
    assert spec["params"] == [{"name": "branch", "value": "main"}]


@pytest.mark.parametrize("kind", ["github", "gitea"])
def test_a_push_signed_with_another_secret_makes_nothing(kind: str, held: Path) -> None:
    report = asked("git", kind, secrets.token_hex(16), held)
    assert report.created == []
    said = reasons(report)
    assert said["signed-current"] == said["signed-previous"] == "interceptor github: payload signature check failed"
    assert "push" not in said, "no group let it through to the trigger"


def test_a_body_changed_after_signing_makes_nothing(held: Path) -> None:
    signed = payloads.request("github", payloads.recorded("github"), CURRENT.encode())
    forged = payloads.Request("github", signed.headers, signed.body.replace(b'"forced":false', b'"forced":true '))
    assert len(forged.body) == len(signed.body)
    assert forged.body != signed.body
    assert offline.replay(forged, "git", [SAMPLE, held]).created == []


def test_gitlab_tokens_are_compared(held: Path) -> None:
    assert len(asked("git", "gitlab", CURRENT, held).created) == 1
    report = asked("git", "gitlab", CURRENT[:-1], held)
    assert report.created == []
    assert reasons(report)["gitlab"] == "interceptor gitlab: Invalid X-GitLab-Token"


def test_the_same_event_let_in_twice_makes_one_run(held: Path, tmp_path: Path) -> None:
    both = tmp_path / "same.yaml"
    text = held.read_text().replace(PREVIOUS, CURRENT)
    both.write_text(text)
    report = asked("git", "github", CURRENT, both)
    assert len(report.created) == 1
    assert "already exists" in reasons(report)["push"]


@pytest.mark.parametrize("secret", [CURRENT, f"Bearer {CURRENT}", PREVIOUS], ids=["current", "whole", "previous"])
def test_a_bearer_token_in_constant_time_lets_an_alert_in(secret: str, held: Path) -> None:
    report = asked("bearer", "alertmanager", secret, held)
    assert [made["metadata"]["name"] for made in report.created] == ["retrain-9f1c27d4ab83e605"]


def test_a_wrong_token_a_resolved_alert_and_a_malformed_fingerprint_make_nothing(held: Path) -> None:
    for secret, sets in (
        (CURRENT + "0", []),
        (CURRENT, [("status", "resolved")]),
        (CURRENT, [("alerts.0.fingerprint", "9f1c27d4ab83e605x")]),
        (CURRENT, [("alerts.0.fingerprint:", '["9f1c27d4ab83e605"]')]),
    ):
        report = asked("bearer", "alertmanager", secret, held, sets=sets)
        assert report.created == []
        assert reasons(report)["alert"].startswith("interceptor cel: ")


def test_a_secret_in_no_file_is_named_and_may_be_assumed() -> None:
    report = asked("bearer", "alertmanager", CURRENT)
    assert (report.created, report.missing, report.assumed) == ([], ["webhook-bearer"], ())
    assert "# Secret webhook-bearer is in no file" in offline.shown(report)
    report = asked("bearer", "alertmanager", CURRENT, assumed=f"Bearer {CURRENT}".encode())
    assert (len(report.created), report.missing, report.assumed) == (1, (), ["webhook-bearer"])
    assert asked("bearer", "alertmanager", CURRENT, assumed=PREVIOUS.encode()).created == []


HOSTILE = [
    '"',
    '\\"',
    '", "data": {"x": "y"}, "z": "',
    "'; rm -rf / #",
    "line\nline\r\n\ttab",
    "</script>&<!--",
    "$(tt.params.header)",
    "$(uid) $(context.pipelineRun.name) $(tasks.a.results.b)",
    "$$(params.x)",
    "{{ .x }} ${HOME} `id`",
    "\u2028\u2029\x85\x00\x1b[31m",
    "ünïcödé 漢字 🙂 \u202etxt",
    "- a: b\n---\nkind: Secret",
]


def _hostile(test: Any) -> Any:
    for word in HOSTILE:
        test = example(word)(test)
    return test


@_hostile
@given(word=st.text(max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_text_comes_stays_data_in_its_place(word: str) -> None:
    report = posted("open", {"word": word}, {"X-Word": "plain"})
    made = [one for one in report.created if one["kind"] == "ConfigMap"]
    assert len(made) == 1
    assert set(made[0]) == {"apiVersion", "kind", "metadata", "data"}
    assert set(made[0]["metadata"]) == {"name", "namespace", "labels"}
    data = made[0]["data"]
    assert set(data) == {"body", "header", "extension"}
    assert data["header"] == "plain"
    if "$(" not in word:  # Triggers itself writes $$( for it, and fills in what looks like its own params
        assert data["body"] == data["extension"] == word


@pytest.mark.parametrize("word", ['a"b', "a\\b", "a'b{}[]:,", "$(body.word)", "a: b # c"])
def test_hostile_headers_stay_data(word: str) -> None:
    report = posted("open", {"word": "plain"}, {"X-Word": word})
    made = next(one for one in report.created if one["kind"] == "ConfigMap")
    assert made["data"]["header"] == word.replace("$(", "$$(")
    assert made["data"]["body"] == "plain"


@pytest.mark.parametrize("word", ["A", "a/b", "a\nb", "..", "a" * 300, "x y", 'a","namespace":"kube-system'])
def test_a_run_whose_name_the_api_server_refuses_is_refused_here(word: str) -> None:
    report = posted("open", {"word": word})
    assert [one["kind"] for one in report.created] == ["ConfigMap"] or not report.created
    assert "couldn't create resource" in reasons(report)["named"]


def test_a_list_where_nothing_demands_text_breaks_out_of_its_place() -> None:
    """Why every value needs a strict expression: Triggers puts lists and objects into the template unescaped."""
    made = posted("open", {"word": [",", ":"]}, {"X-Word": "plain"}).created[0]
    assert made["data"] == {"body": "[", "extension": "[", ",": "]", "header": "plain"}


@pytest.mark.parametrize("value", ['["a"]', '{"a": "b"}', "7", "true", "null", '[",", ":", ","]'])
def test_a_strict_expression_lets_nothing_but_text_through(value: str, held: Path) -> None:
    payload = {**payloads.recorded("github"), "after": json.loads(value)}
    report = offline.replay(payloads.request("github", payload, CURRENT.encode()), "git", [SAMPLE, held])
    assert report.created == []
    assert reasons(report)["push"].startswith("interceptor cel: ")


class _Interceptor(Quiet):
    """An interceptor of ours: it lets pass what has a signature, and tells the version."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(question)
        version = json.loads(question["body"])["data"]["version"]
        answer: dict[str, Any] = {"continue": True, "extensions": {"version": version}}
        if "X-Mlflow-Signature" not in question["header"]:
            answer = {"continue": False, "status": {"code": 7, "message": "no signature"}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def interceptor() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of an interceptor, and what it was asked."""
    handler = type("Handler", (_Interceptor,), {"asked": []})
    with served(handler) as url:
        yield f"{url}/", handler.asked


def test_an_interceptor_of_ours_is_asked_over_http(interceptor: tuple[str, list[dict[str, Any]]]) -> None:
    url, questions = interceptor
    report = asked("registry", "mlflow", CURRENT, interceptors=[("mlflow", url)])
    assert [made["metadata"]["name"] for made in report.created] == ["deploy-v7"]
    assert questions[0]["interceptor_params"] == {"aliases": ["champion"]}
    assert questions[0]["body"] == json.dumps(payloads.recorded("mlflow"))
    assert questions[0]["context"]["trigger_id"] == "namespaces/default/triggers/promoted"
    unsigned = payloads.Request("mlflow", {}, json.dumps(payloads.recorded("mlflow")).encode())
    refused = offline.replay(unsigned, "registry", [SAMPLE], interceptors=[("mlflow", url)])
    assert reasons(refused) == {"promoted": "interceptor mlflow: no signature"}


def test_an_interceptor_without_a_url_is_not_asked_and_nothing_passes_it() -> None:
    report = asked("registry", "mlflow", CURRENT)
    assert report.created == []
    assert "mlflow: was not asked; give its URL by --interceptor mlflow=URL" in reasons(report)["promoted"]


def test_an_interceptor_that_does_not_answer_lets_nothing_pass() -> None:
    report = asked("registry", "mlflow", CURRENT, interceptors=[("mlflow", "http://127.0.0.1:9/")])
    assert report.created == []
    assert "connection refused" in reasons(report)["promoted"]


def test_what_is_missing_is_named_in_the_order_of_the_listener() -> None:
    report = posted("broken", {"word": "x"})
    said = reasons(report)
    assert report.created == []
    assert list(said) == ["nowhere", "no-template", "no-binding", "no-value", "no-run"]
    assert said["nowhere"] == "no Trigger nowhere in namespace default"
    assert "error getting TriggerTemplate nowhere" in said["no-template"]
    assert "failed to resolve bindings" in said["no-binding"]
    assert "failed to replace JSONPath value for param revision" in said["no-value"]
    assert 'unknown field "spec.unknownField"' in said["no-run"]


def test_a_body_that_is_no_json_object_is_answered_400() -> None:
    for body in (b"[1]", b"not json", b""):
        report = offline.replay(payloads.Request("github", {}, body), "open", [SAMPLE])
        assert (report.status, report.outcomes) == (400, [])
        assert report.message.startswith("Invalid event body format")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: [", "yaml"),
        ("apiVersion: GROUP/v1beta1\nkind: EventListener\nmetadata: {name: x}\nspec: {}", "got neither"),
        ("apiVersion: GROUP/v1beta1\nkind: Trigger\nmetadata: {name: x}\nspec: {y: 1}", "unknown field"),
        ("apiVersion: GROUP/v1alpha1\nkind: EventListener\nmetadata: {name: x}", "is not read here"),
    ],
)
def test_yaml_that_triggers_would_not_take_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text.replace("GROUP", "triggers.tekton.dev"))
    with pytest.raises(tekton.BadInput) as caught:
        offline.replay(payloads.Request("github", {}, b"{}"), "x", [path])
    assert words in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_listener_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(tekton.BadInput, match="no EventListener nobody in the files"):
        posted("nobody", {})


def _command(tmp_path: Path, *more: str) -> list[str]:
    secret = tmp_path / "secret"
    secret.write_text(CURRENT + "\n")
    return ["event", "github", "--secret-file", str(secret), "--listener", "git", *more]


def test_the_command_prints_yaml_that_can_be_read_again(
    held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--offline", str(SAMPLE), "--offline", str(held)]
    assert cli.main(_command(tmp_path, *files, "--set", f"after={SHA}", "-n", "mine")) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert CURRENT not in out
    runs = [one for one in yaml.safe_load_all(out) if one]
    assert [(one["metadata"]["name"], one["metadata"]["namespace"]) for one in runs] == [
        (f"data-sample-{SHA[:12]}", "mine")
    ]


def test_the_command_renders_a_kustomization(held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "triggers"
    folder.mkdir()
    (folder / "sample.yaml").write_text(SAMPLE.read_text())
    (folder / "secrets.yaml").write_text(held.read_text())
    (folder / "kustomization.yaml").write_text("namespace: theirs\nresources: [sample.yaml, secrets.yaml]\n")
    assert cli.main(_command(tmp_path, "--offline", str(folder))) == 0
    out, _ = capsys.readouterr()
    assert [one["metadata"]["namespace"] for one in yaml.safe_load_all(out) if one] == ["theirs"]


def test_the_command_ends_with_the_reason_where_nothing_is_made(
    held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--offline", str(SAMPLE), "--offline", str(held)]
    assert cli.main(_command(tmp_path, *files, "--set", "ref=refs/heads/other")) == 3
    out, error = capsys.readouterr()
    assert "# trigger push: interceptor cel: expression body.ref == 'refs/heads/main'" in out
    assert error.startswith("error: listener default/git makes nothing of this github event")
    assert error.count("\n") == 1
