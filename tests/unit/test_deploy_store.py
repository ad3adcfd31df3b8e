"""The model store: written once, checked against the manifest, never outside its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx_models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Quiet, served

from isotherm import bundle, contract, tekton
from isotherm.deploy import store

DIGEST = "ab" * 32
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}


class Objects(Quiet):
    """S3's HEAD, GET and PUT of one bucket, path style, with or without `If-None-Match`."""

    held: dict[str, bytes]
    protocol_version = "HTTP/1.1"  # else the client waits a second for `100 Continue`
    conditional: bool
    corrupt: str

    def _answer(self, status: int, body: bytes = b"", code: str = "") -> None:
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer(200 if self.path in self.held else 404)

    def do_GET(self) -> None:
        if self.path not in self.held:
            return self._answer(404, code="NoSuchKey")
        return self._answer(200, self.held[self.path])

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") and not self.conditional:
            return self._answer(501, code="NotImplemented")
        if self.headers.get("If-None-Match") and self.path in self.held:
            return self._answer(412, code="PreconditionFailed")
        flipped = bytes([content[0] ^ 1]) + content[1:]
        self.held[self.path] = flipped if self.corrupt and self.path.endswith(self.corrupt) else content
        return self._answer(200)


@pytest.fixture(params=[True, False], ids=["if-none-match", "head-then-put"])
def s3(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[type[Objects], Path]]:
    """A server that keeps objects, and the folder of credentials that points at it."""
    handler = type("Server", (Objects,), {"held": {}, "conditional": request.param, "corrupt": ""})
    folder = tmp_path / "credentials"
    folder.mkdir()
    with served(handler) as url:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": url}.items():
            (folder / name).write_text(f"{value}\n")
        yield handler, folder


@pytest.fixture
def model(tmp_path: Path) -> bundle.Bundle:
    digest = onnx_models.write_bundle(tmp_path / "bundle")
    return bundle.load(tmp_path / "bundle", digest)


def volume(root: Path) -> tuple[store.Location, store.Place]:
    location = store.locate("pvc://isotherm/model-store", "plate", DIGEST)
    return location, store.place_for(location, root, None)


def test_a_volume_holds_the_whole_model_after_one_copy_and_a_repeat_reuses_it(
    model: bundle.Bundle, tmp_path: Path
) -> None:
    location, place = volume(tmp_path / "store")
    assert location.uri == f"pvc://isotherm/model-store/plate/{DIGEST}"
    assert store.put(model, place, location.uri) is True
    folder = tmp_path / "store/plate" / DIGEST
    assert sorted(path.name for path in folder.iterdir()) == sorted(model.content)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert store.put(model, place, location.uri) is False
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_copy_cut_short_is_completed_and_its_manifest_comes_last(model: bundle.Bundle, tmp_path: Path) -> None:
    location, place = volume(tmp_path)
    place.write_new(contract.MODEL_ONNX, model.content[contract.MODEL_ONNX])
    assert store.put(model, place, location.uri) is True
    folder = tmp_path / "plate" / DIGEST
    written = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert written[-1].name == contract.MANIFEST_FILE


@pytest.mark.parametrize("name", [contract.MODEL_ONNX, contract.MODEL_METADATA, contract.MANIFEST_FILE])
def test_other_content_is_refused_and_stays(model: bundle.Bundle, tmp_path: Path, name: str) -> None:
    location, place = volume(tmp_path)
    store.put(model, place, location.uri)
    path = tmp_path / "plate" / DIGEST / name
    path.write_bytes(b"other")
    with pytest.raises(tekton.Refused, match=name):
        store.put(model, place, location.uri)
    assert path.read_bytes() == b"other"


def test_a_complete_model_that_lost_a_file_is_not_patched_up(model: bundle.Bundle, tmp_path: Path) -> None:
    location, place = volume(tmp_path)
    store.put(model, place, location.uri)
    (tmp_path / "plate" / DIGEST / contract.MODEL_ONNX).unlink()
    with pytest.raises(tekton.Refused, match="has lost model"):
        store.put(model, place, location.uri)


def test_links_in_the_store_are_not_followed(model: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/plate").symlink_to(tmp_path / "outside")
    with pytest.raises(tekton.Refused, match="leads out of"):
        volume(tmp_path / "store")
    location, place = volume(tmp_path / "other")
    (tmp_path / "other/plate" / DIGEST).mkdir(parents=True)
    (tmp_path / "other/plate" / DIGEST / contract.MODEL_ONNX).symlink_to(tmp_path / "outside/model.onnx")
    with pytest.raises(tekton.Refused, match="symbolic link"):
        store.put(model, place, location.uri)
    assert not any((tmp_path / "outside").iterdir())


def test_a_bucket_holds_the_model_once(model: bundle.Bundle, s3: tuple[type[Objects], Path]) -> None:
    server, credentials = s3
    location = store.locate("s3://models/prod/", "plate", DIGEST)
    place = store.place_for(location, None, credentials)
    assert store.put(model, place, location.uri) is True
    keys = {path.rsplit("/", 1)[1]: content for path, content in server.held.items()}
    assert keys == dict(model.content)
    assert all(f"/models/prod/plate/{DIGEST}/" in path for path in server.held)
    assert store.put(model, place, location.uri) is False
    place.write_new(contract.MODEL_ONNX, b"other")
    assert keys == {path.rsplit("/", 1)[1]: content for path, content in server.held.items()}


def test_a_bucket_that_stores_something_else_is_found_out(model: bundle.Bundle, s3: tuple[type[Objects], Path]) -> None:
    server, credentials = s3
    server.corrupt = contract.MODEL_ONNX
    location = store.locate("s3://models", "plate", DIGEST)
    with pytest.raises(tekton.Refused, match="another model"):
        store.put(model, store.place_for(location, None, credentials), location.uri)


@pytest.mark.parametrize(
    ("url", "name", "digest"),
    [
        ("https://models/x", "plate", DIGEST),
        ("/models", "plate", DIGEST),
        ("s3://", "plate", DIGEST),
        ("pvc://claim/../other", "plate", DIGEST),
        ("pvc://claim/a//b", "plate", DIGEST),
        ("s3://models?x=1", "plate", DIGEST),
        ("s3://models", "../plate", DIGEST),
        ("s3://models", "Plate", DIGEST),
        ("s3://models", "plate", "../../etc"),
        ("s3://models", "plate", DIGEST[:-1]),
    ],
)
def test_a_place_that_could_be_elsewhere_is_refused(url: str, name: str, digest: str) -> None:
    with pytest.raises(tekton.BadInput):
        store.locate(url, name, digest)


@settings(deadline=None)
@given(st.sampled_from(["pvc://claim/", "s3://", "pvc://[", ""]), st.text(max_size=40), st.text(max_size=70))
def test_a_location_never_leaves_its_store(start: str, rest: str, digest: str) -> None:
    try:
        location = store.locate(start + rest, rest, digest)
    except tekton.BadInput:
        return
    assert Path("/store", location.relative).resolve().is_relative_to("/store/")


def test_a_volume_needs_its_workspace() -> None:
    with pytest.raises(tekton.BadInput, match="workspace model-store"):
        store.place_for(store.locate("pvc://claim/path", "plate", DIGEST), None, None)


@pytest.mark.parametrize("name", [contract.MODEL_ONNX, contract.MODEL_METADATA, contract.PROBLEM_FILE])
def test_a_bundle_whose_file_differs_from_its_manifest_is_refused(tmp_path: Path, name: str) -> None:
    digest = onnx_models.write_bundle(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(tekton.Refused, match=name):
        bundle.load(tmp_path, digest)


def test_a_bundle_of_another_digest_is_refused(tmp_path: Path) -> None:
    onnx_models.write_bundle(tmp_path)
    with pytest.raises(tekton.Refused, match=r"not [0-9a-f]{12}"):
        bundle.load(tmp_path, hashlib.sha256(b"other").hexdigest())
