"""What decides whether an image is built again, and what a build is told of this machine."""

from __future__ import annotations

import configparser
import gzip
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isotherm import tekton
from isotherm_local.images import base, command, engines, families, layout, pip
from isotherm_local.images.containerfile import copied, instructions

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = """# COPY nothing of a comment
ARG BASE_IMAGE=example
FROM ${BASE_IMAGE} AS build
ARG LOCK=cpu.txt
COPY slim.py ${LOCK} /tmp/
RUN one \\
    # said in between
    && two
COPY program program
FROM ${BASE_IMAGE}
COPY --from=build /opt/app /opt/app
USER 1001
"""


@pytest.fixture
def family(tmp_path: Path) -> families.Family:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "Containerfile").write_text(CONTAINERFILE)
    (tmp_path / "program").mkdir()
    for name in ("slim.py", "cpu.txt", "cuda.txt", "program/main.py"):
        (tmp_path / name).write_text(name)
    return families.Family("one", tmp_path / "one" / "Containerfile", tmp_path)


def test_copied_files_come_from_the_context_and_follow_build_arguments(family: families.Family) -> None:
    assert copied(family.containerfile) == ["slim.py", "cpu.txt", "program"]
    assert copied(family.containerfile, {"LOCK": "cuda.txt"}) == ["slim.py", "cuda.txt", "program"]
    runs = [rest.split() for word, rest in instructions(family.containerfile) if word == "RUN"]
    assert runs == [["one", "&&", "two"]]


@pytest.mark.parametrize("changed", ["one/Containerfile", "slim.py", "cpu.txt", "program/main.py", "program/new.py"])
def test_key_follows_every_file_that_is_copied(family: families.Family, changed: str) -> None:
    before = families.key(family, "base", "abc")
    with (family.context / changed).open("a") as file:
        file.write("\n# changed\n")
    assert families.key(family, "base", "abc") != before


@pytest.mark.parametrize("other", ["cuda.txt", "elsewhere.py", "program/__pycache__/main.pyc"])
def test_key_ignores_what_is_not_copied(family: families.Family, other: str) -> None:
    before = families.key(family, "base", "abc")
    (family.context / other).parent.mkdir(exist_ok=True)
    (family.context / other).write_text("changed")
    assert families.key(family, "base", "abc") == before


def test_key_follows_base_and_arguments_and_a_dirty_tree_but_no_commit(family: families.Family) -> None:
    before = families.key(family, "base", "abc")
    assert families.key(family, "base", "def") == before
    assert families.key(family, "base", "abc-dirty") != before
    assert families.key(family, "other", "abc") != before
    assert families.key(replace(family, arguments={"LOCK": "cuda.txt"}), "base", "abc") != before


def test_missing_copy_is_refused_by_name(family: families.Family) -> None:
    (family.context / "slim.py").unlink()
    with pytest.raises(tekton.BadInput, match=r"copies slim\.py, which is not there"):
        families.key(family, "base", "abc")


def test_commit_is_dirty_only_where_the_image_is(family: families.Family) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", family.context, *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = families.commit(family.context, family)
    assert len(clean) == 40
    (family.context / "cuda.txt").write_text("changed")
    assert families.commit(family.context, family) == clean
    (family.context / "cpu.txt").write_text("changed")
    assert families.commit(family.context, family) == f"{clean}-dirty"


def test_names_are_those_that_containerd_keeps_for_the_tasks() -> None:
    chosen = families.choose(ROOT, [], with_lab=False, cuda=False)
    names = {one.reference(families.version(ROOT)) for one in chosen}
    assert names == {
        f"docker.io/isotherm/{name}:0.1.0" for name in ("data", "front-door", "ops", "pinn-api", "pinn-trainer")
    }
    gpu = families.choose(ROOT, ["pinn-trainer", "ops"], with_lab=False, cuda=True)
    assert [one.reference("1.0").rpartition("/")[2] for one in gpu] == ["pinn-trainer:1.0-cuda", "ops:1.0"]
    with pytest.raises(tekton.BadInput, match="no image is called 'oops'"):
        families.choose(ROOT, ["oops"], with_lab=True, cuda=False)


def test_no_tool_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tekton.Unavailable) as caught:
        engines.choose(tmp_path)
    line = caught.value.line()
    assert "buildah not found, podman not found, docker not found; install buildah or podman" in line


def test_failed_tool_is_reported_by_the_line_that_says_why(tmp_path: Path) -> None:
    script = "print('ERROR: no such package'); print('Error: building at STEP \"RUN x\"'); raise SystemExit(1)"
    tool = engines.Engine("buildah", (sys.executable, "-c", script), ())
    with pytest.raises(tekton.Unavailable, match="buildah build failed: ERROR: no such package"):
        engines.run(tool, ["build"], tmp_path / "log", lambda _: None)


def test_layers_that_no_last_build_used_are_removed_newest_first(tmp_path: Path) -> None:
    cached, made, old, older = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
    (tmp_path / "ops.log").write_text(
        f"STEP 1/2\n--> Using cache {cached}\n--> {cached[:11]}\nSTEP 2/2\n--> {made[:11]}\n"
    )
    listing = "".join(f"sha256:{row}\n" for row in (f"{made} isotherm/ops", old, f"{older} <none>", cached))
    script = (
        "import sys; from pathlib import Path\n"
        f"if sys.argv[1] == 'images': print({listing!r})\n"
        f"else: Path({str(tmp_path / 'removed')!r}).open('a').write(sys.argv[2] + '\\n')\n"
    )
    engines.prune(engines.Engine("buildah", (sys.executable, "-c", script), ()), tmp_path)
    assert (tmp_path / "removed").read_text().split() == [old, older]


def test_pip_settings_reach_the_build_as_read_only_volumes_and_are_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, wheels = tmp_path / "my-ca.pem", tmp_path / "wheels"
    certificate.write_text("certificate")
    wheels.mkdir()
    monkeypatch.setenv("PIP_CERT", str(certificate))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/not/in/the/container")
    with pip.volumes(tmp_path, wheels) as volumes:
        assert all(volume.endswith(":ro") for volume in volumes)
        folder = Path(volumes[0].split(":")[0])
        config = configparser.RawConfigParser()
        config.read(folder / "pip.conf")
        assert dict(config["global"]) | {"index-url": "https://index.example.com/simple"} == dict(config["global"])
        assert config["global"]["cert"] == f"{pip.CONFIG_DIR}/ca.crt"
        assert config["global"]["find-links"] == pip.WHEELS_DIR
        assert (folder / "ca.crt").read_text() == "certificate"
    assert not folder.exists()


def _layout(folder: Path, label: str) -> None:
    def blob(name: str, content: bytes) -> dict[str, str]:
        path = folder / "blobs" / "sha256" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"digest": f"sha256:{name}"}

    config = blob("config", json.dumps({"config": {"Labels": {layout.LABEL: label}}}).encode())
    layers = [blob("base", gzip.compress(b"x" * 1000)), blob("own", gzip.compress(b"y" * 234))]
    manifest = blob("manifest", json.dumps({"config": config, "layers": layers}).encode())
    (folder / "index.json").write_text(json.dumps({"manifests": [manifest]}))


def test_a_layout_is_found_by_its_inputs_and_only_when_it_is_whole(tmp_path: Path) -> None:
    _layout(tmp_path, "inputs")
    measured = layout.measure(tmp_path, "ops", "docker.io/isotherm/ops:0.1.0", 1.23, "abc")
    assert (measured.unpacked, measured.base, measured.digest) == (1234, 1000, "sha256:manifest")
    assert layout.find(tmp_path, "inputs") == measured
    assert layout.find(tmp_path, "others") is None
    (tmp_path / "blobs" / "sha256" / "own").unlink()
    assert layout.find(tmp_path, "inputs") is None


def test_table_has_sizes_in_megabytes_and_the_digest() -> None:
    one = layout.Built(
        "ops", "docker.io/isotherm/ops:0.1.0", "sha256:0a", 463_700_000, 132_000_000, 126_000_000, 99, ""
    )
    assert command.table([one]).splitlines()[1].split() == ["isotherm/ops:0.1.0", "464", "338", "132", "sha256:0a"]


def test_table_in_a_document_replaces_the_old_one(tmp_path: Path) -> None:
    one = layout.Built(
        "ops", "docker.io/isotherm/ops:0.1.0", "sha256:0a", 463_700_000, 132_000_000, 126_000_000, 99, ""
    )
    path = tmp_path / "page.md"
    path.write_text(f"before\n{command.BEGIN}\nold\n{command.END}\nafter\n")
    for _ in range(2):
        command.document([one], path)
    text = path.read_text()
    assert "| `ops` | 464 | 338 | 132 | 99 s |" in text
    assert (text.count("`ops`"), "old" in text, text.startswith("before\n"), text.endswith("\nafter\n")) == (
        1,
        False,
        True,
        True,
    )
    path.write_text("no marks")
    with pytest.raises(tekton.BadInput, match="no marks"):
        command.document([one], path)


def test_base_key_follows_the_mirror() -> None:
    assert base.key("") != base.key("http://mirror.example.com/debian")
    assert base.key("") == base.key("")


def test_entry_point_of_the_trainer_can_be_imported_again_by_its_workers() -> None:
    # The name that multiprocessing gives a spawned worker's main module.
    assert "main" in runpy.run_path(str(ROOT / "images/pinn-trainer/train.py"), run_name="__mp_main__")
