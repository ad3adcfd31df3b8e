"""dvc-fetch from S3: endpoint and keys come from the files of a mounted Secret, and nothing else gets in.

The server speaks the three calls that a read needs (HeadObject, GetObject, ListObjectsV2) over a real socket, from the
test's folder remote; only requests signed with the known access key are answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from data_repository import DataRepository, published, repository
from serving import Quiet, served

from isotherm import tekton
from isotherm.data import fetch, store

__all__ = ["published", "repository"]

ACCESS_KEY = "AKIAISOTHERMTEST"


class Handler(Quiet):
    """Bucket `research` is the folder `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if f"Credential={ACCESS_KEY}/" not in self.headers.get("Authorization", ""):
            self.send(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        elif bucket != "research":
            self.send(404, b"<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>")
        elif not key:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            found = sorted(path for path in self.root.rglob("*") if path.is_file())
            rows = [(path.relative_to(self.root).as_posix(), path.stat().st_size) for path in found]
            contents = "".join(
                f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size><ETag>&quot;x&quot;</ETag>"
                "<LastModified>2025-10-20T15:22:17.000Z</LastModified></Contents>"
                for name, size in rows
                if name.startswith(prefix)
            )
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
            self.send(200, body.encode())
        elif (self.root / key).is_file():
            self.send(200, (self.root / key).read_bytes())
        else:
            self.send(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 20 Oct 2025 15:22:17 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def endpoint(repository: DataRepository) -> Iterator[str]:
    with served(type("Bucket", (Handler,), {"root": repository.remote})) as url:
        yield url


def credentials(folder: Path, endpoint: str, key: str = ACCESS_KEY) -> Path:
    folder.mkdir()
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
    (folder / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n")
    return folder


def s3_request(repository: DataRepository, secret: Path, bucket: str = "research") -> fetch.Request:
    request = repository.request(remote_url=f"s3://{bucket}")
    return fetch.Request(
        request.repo_url, request.revision, request.data_path, request.remote_url, dvc_credentials=secret
    )


def test_a_dataset_comes_from_s3_with_the_files_of_the_secret(
    repository: DataRepository, endpoint: str, tmp_path: Path
) -> None:
    request = s3_request(repository, credentials(tmp_path / "secret", endpoint))
    record = fetch.fetch(request, repository.workspace, attempts=1)
    assert record.remote == "s3://research"
    assert store.verify(repository.workspace / record.dataset_hash).rows == 60


def test_wrong_keys_and_a_missing_bucket_are_told_apart(
    repository: DataRepository, endpoint: str, tmp_path: Path
) -> None:
    wrong = s3_request(repository, credentials(tmp_path / "wrong", endpoint, key="AKIASOMEBODY"))
    with pytest.raises(tekton.BadInput, match="refuses access"):
        fetch.fetch(wrong, repository.workspace, attempts=1)
    secret = credentials(tmp_path / "secret", endpoint)
    with pytest.raises(tekton.Unavailable, match="not on the remote s3://other"):
        fetch.fetch(s3_request(repository, secret, "other"), repository.workspace, attempts=1)
    assert repository.left() == set()


def test_what_is_missing_on_s3_is_named(repository: DataRepository, endpoint: str, tmp_path: Path) -> None:
    repository.object(repository.file_md5("measurements.h5")).unlink()
    request = s3_request(repository, credentials(tmp_path / "secret", endpoint))
    with pytest.raises(tekton.Unavailable, match=r"file measurements\.h5 .* is not on the remote"):
        fetch.fetch(request, repository.workspace, attempts=1)
