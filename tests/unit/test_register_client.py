"""The way to MLflow: what is refused before any request, and how soon a dead server is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow_server import free_port

from isotherm import tekton
from isotherm.registry import client as registry_client


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what `connect` leaves in the environment."""
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "http"),
        ("mlruns", "http"),
        ("file:///etc", "http"),
        ("sqlite:///mlflow.db", "http"),
        ("databricks://profile", "http"),
        ("http://", "http"),
        ("http://user:secret@mlflow:5000", "workspace mlflow-credentials"),
    ],
)
def test_only_plain_http_urls_are_accepted(uri: str, why: str) -> None:
    with pytest.raises(tekton.BadInput) as caught:
        registry_client.connect(uri)
    assert why in caught.value.line()
    assert "secret" not in caught.value.line()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"token": "t0\n"}, ("", "", "t0")),
        ({"username": "ann", "password": "p0"}, ("ann", "p0", "")),
        ({"username": "ann", "password": "p0", "token": "t0"}, ("", "", "t0")),
    ],
)
def test_credentials_come_from_files(
    tmp_path: Path, mlflow_url: str, files: dict[str, str], expected: tuple[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    registry_client.connect(mlflow_url, tmp_path)
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    assert tuple(os.environ[name] for name in names) == expected


@pytest.mark.parametrize("files", [{}, {"username": "ann"}, {"password": "p0"}, {"token": "  "}])
def test_unusable_credentials_are_named_without_their_text(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(tekton.BadInput, match="mlflow-credentials") as caught:
        registry_client.connect("http://127.0.0.1:9", tmp_path)
    assert not any(text.strip() and text in caught.value.line() for text in files.values())


def test_dead_server_is_one_line_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(registry_client.DEADLINE_VARIABLE, "2")
    with pytest.raises(tekton.Unavailable) as caught:
        registry_client.connect(url)
    assert caught.value.line().startswith(
        f"MLflow at {url} did not answer within 2 s: [Errno 111] Connection refused; "
    )


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_deadline_must_make_sense(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(registry_client.DEADLINE_VARIABLE, text)
    with pytest.raises(tekton.BadInput, match=registry_client.DEADLINE_VARIABLE):
        registry_client.connect("http://127.0.0.1:9")


def test_outage_during_the_work_is_unavailable_too(monkeypatch: pytest.MonkeyPatch, mlflow_url: str) -> None:
    client = registry_client.connect(mlflow_url)
    dead = f"http://127.0.0.1:{free_port()}"
    from mlflow import MlflowClient

    with (
        pytest.raises(tekton.Unavailable, match="Connection refused"),
        registry_client.answers(dead),
        registry_client.no_repeats(),
    ):
        MlflowClient(dead).search_experiments()
    assert client.search_experiments()


def test_a_server_that_is_not_mlflow_is_said_so(mlflow_url: str) -> None:
    with pytest.raises(tekton.BadInput, match="refused the request"):
        registry_client.connect(f"{mlflow_url}/no-such-prefix")
