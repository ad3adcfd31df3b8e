"""dvc-fetch from a Git server that speaks plain http inside the cluster: git's own http-backend in a small server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_repository import DataRepository, published, repository
from serving import Quiet, served

from isotherm import tekton

__all__ = ["published", "repository"]


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the repositories below tmp_path; yields the URL and the requests that came."""
    came: list[str] = []

    class Backend(Quiet):
        def do_GET(self) -> None:
            came.append(self.path)
            path, _, query = self.path.partition("?")
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(tmp_path),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(
                ["git", "http-backend"], env=environment, input=body, capture_output=True, check=False
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            lines = [line.partition(": ")[::2] for line in head.decode().splitlines()]
            self.send_response(int(next((value.split()[0] for name, value in lines if name == "Status"), "200")))
            for name, value in lines:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

    with served(Backend) as url:
        yield url, came


def test_a_dataset_comes_from_a_server_inside_the_cluster(
    repository: DataRepository, git_server: tuple[str, list[str]]
) -> None:
    url, _ = git_server
    record = repository.fetch(repo_url=f"{url}/repository/.git")
    assert (record.data_git_sha, repository.left()) == (repository.commit, {record.dataset_hash})


def test_a_repository_that_is_not_on_the_server_is_named(
    repository: DataRepository, git_server: tuple[str, list[str]]
) -> None:
    with pytest.raises(tekton.BadInput, match=r"no-such-thing.* is not a git repository"):
        repository.fetch(repo_url=f"{git_server[0]}/no-such-thing.git")


def test_credentials_never_reach_a_server_without_encryption(
    repository: DataRepository, git_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, came = git_server
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "username").write_text("me")
    (secret / "password").write_text("hunter2")
    with pytest.raises(tekton.BadInput, match="in the clear") as caught:
        repository.fetch(repo_url=f"{url}/repository/.git", git_credentials=secret)
    assert "hunter2" not in caught.value.line()
    assert (came, repository.left()) == ([], set())
