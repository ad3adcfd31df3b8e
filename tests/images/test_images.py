"""Every image works as an arbitrary user on a read-only root without a network, and holds nothing that it must not."""

from __future__ import annotations

import ast
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from oci_container import GID, UID, Image, open_to_all

from isotherm import bundle
from isotherm_local.images import layout
from isotherm_local.lint.model import Catalog
from isotherm_local.lint.source import closure
from isotherm_local.lint.steps import steps

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("data", "ops", "pinn-api", "pinn-trainer")
CATALOG = (*FAMILIES, "front-door")  # nginx; the others hold Python programs
LAB = ("base", "storage-initializer")
Images = Callable[[str], Image]
# What no Task starts: the predictor, and the programs for people.
OTHERS = {
    "pinn-api": ["isotherm.predictor.serve"],
    "data": ["isotherm.data.generate", "isotherm.data.infrared", "isotherm.data.publish"],
    "pinn-trainer": ["isotherm.pinn.hardware"],
}
# The container's own account of itself, as JSON.
IDENTITY = """
import json, os, pathlib

def writes(place):
    try:
        with open(f"{place}/.probe", "w"):
            return True
    except OSError as error:
        return error.strerror

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(),
    "gid": os.getgid(),
    "capabilities": int(status["CapBnd"], 16) | int(status["CapEff"], 16),
    "no_new_privs": int(status["NoNewPrivs"]),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
    "written": {place: writes(place) for place in (str(pathlib.Path.home()), "/tmp", "/", "/opt", "/var/tmp")},
}))
"""
READ_ONLY = "Read-only file system"


# Starts the predictor in its container, asks it once over loopback, and ends it as the kubelet does.
CLIENT = """
import json, signal, subprocess, urllib.request
server = subprocess.Popen([*{entry}, "--model_dir=/mnt/models", "--http_port=0"], stdout=subprocess.PIPE, text=True)
port = json.loads(server.stdout.readline())["port"]
with urllib.request.urlopen(f"http://127.0.0.1:{{port}}/predict-temperature?x=0.1&y=0.1&t=0.5") as answer:
    digest, body = answer.headers["X-Model-Digest"], json.load(answer)
server.send_signal(signal.SIGTERM)
print(json.dumps({{"digest": digest, "body": body, "exit": server.wait(30)}}))
"""


def _programs() -> list[tuple[str, str]]:
    found = {(name, module) for name, modules in OTHERS.items() for module in modules}
    for _, _, step in steps(Catalog(ROOT)):
        found.add((step["image"].rpartition("/")[2].partition(":")[0], step["command"][2]))
    return sorted(found)


def _third_party(module: str) -> Iterator[str]:
    """Name the packages that a program imports anywhere, also inside functions."""
    for source in closure(ROOT / "images", module).values():
        for node in source.nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from (name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "isotherm"})


@pytest.mark.parametrize(("family", "module"), _programs())
def test_program_explains_itself(image: Images, family: str, module: str) -> None:
    done = image(family).run(["python", "-m", module, "--help"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


@pytest.mark.parametrize("family", FAMILIES)
def test_image_holds_every_package_that_its_programs_import(image: Images, family: str) -> None:
    wanted = {name for owner, module in _programs() if owner == family for name in _third_party(module)}
    # Shared modules also reach for what only another image has, where that image's program calls them.
    code = f"""
import importlib, json
missing = {{}}
for name in {sorted(wanted)}:
    try:
        importlib.import_module(name)
    except Exception as error:
        missing[name] = repr(error)
print(json.dumps(missing))
"""
    done = image(family).python(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.parametrize("family", [*CATALOG, *LAB])
def test_container_is_as_confined_as_the_other_tests_assume(image: Images, family: str) -> None:
    done = image(family).run(["python" if family in FAMILIES else "python3", "-c", IDENTITY])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    home = "/home/isotherm" if family in CATALOG else "/tmp"
    assert found.pop("written") == {home: True, "/tmp": True, "/": READ_ONLY, "/opt": READ_ONLY, "/var/tmp": READ_ONLY}
    # Only a network namespace of its own has at most the loopback device.
    assert set(found.pop("interfaces")) <= {"lo", "tunl0", "sit0"}
    assert found == {"uid": UID, "gid": GID, "capabilities": 0, "no_new_privs": 1}


@pytest.mark.parametrize("family", [*CATALOG, *LAB])
def test_image_holds_no_pip_no_cache_and_nothing_of_the_machine_that_built_it(image: Images, family: str) -> None:
    root = image(family).root
    packages = root / "opt/app"
    assert not [*packages.glob("bin/pip*"), *packages.glob("lib/python*/site-packages/pip")]
    assert not (root / "opt/pip").exists()
    for place in (
        "root/.cache",
        "home/isotherm/.cache",
        "var/cache/apt",
        "var/lib/apt/lists",
        "etc/xdg/pip",
        "mnt/wheels",
    ):
        assert not [file for file in (root / place).rglob("*") if file.is_file()], place
    assert not (root / "etc/pip.conf").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_is_compiled(image: Images, family: str) -> None:
    # What cannot be written at run time would be compiled again at every start.
    done = image(family).python(
        "import yaml, numpy, isotherm.contract as c; print(yaml.__cached__, numpy.__cached__, c.__cached__)"
    )
    assert done.returncode == 0, done.stderr
    root = image(family).root
    assert all((root / path.lstrip("/")).exists() for path in done.stdout.split())


@pytest.mark.parametrize("family", [*CATALOG, *LAB])
def test_image_says_what_it_is(image: Images, built: dict[str, layout.Built], family: str) -> None:
    config = image(family).config
    assert config["User"] == "1001"
    assert layout.LABEL in config["Labels"]
    assert built[family].reference == f"docker.io/isotherm/{family}:0.1.0"
    if family in CATALOG:
        assert f"ISOTHERM_GIT_SHA={built[family].git_sha}" in config["Env"]


def test_predictor_holds_neither_torch_nor_mlflow(image: Images) -> None:
    names = {path.name for path in image("pinn-api").root.glob("opt/app/lib/python*/site-packages/*")}
    assert "onnxruntime" in names
    assert not names & {"torch", "mlflow", "dvc"}


def test_trainer_holds_no_cuda(image: Images) -> None:
    site = next(image("pinn-trainer").root.glob("opt/app/lib/python*/site-packages"))
    assert not [*site.glob("nvidia*"), *site.glob("triton*"), *site.glob("torch/lib/*cuda*")]


@pytest.fixture(scope="module")
def trained(image: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volume after the shortest training: it exercises what --help does not import."""
    place = tmp_path_factory.mktemp("trained")
    open_to_all(place)
    volume = place / "volume"
    volume.mkdir()
    # As under OpenShift, where a volume's group may write it.
    os.chown(volume, 0, GID)
    volume.chmod(0o2770)
    mounts = [(volume, "/workspace", "rw")]
    generate = ["python", "-m", "isotherm.data.generate", "heatinv", "/workspace/data", "--points", "300"]
    made = image("data").run(generate, mounts=mounts)
    assert made.returncode == 0, made.stderr
    options = ["--data", "/workspace/data", "--epochs", "2", "--restarts", "1"]
    options += ["--model-dir", "/workspace/model", "--reports-dir", "/workspace/reports"]
    done = image("pinn-trainer").run([*image("pinn-trainer").config["Entrypoint"], *options], mounts=mounts)
    assert done.returncode == 0, done.stderr + done.stdout
    return volume


def test_trainer_learns_and_exports(trained: Path) -> None:
    report = json.loads((trained / "reports/train.json").read_text())
    assert report["model_digest"]
    assert list(trained.glob("model/**/model.onnx"))


def test_predictor_serves_what_the_trainer_exported(image: Images, trained: Path) -> None:
    digest = json.loads((trained / "reports/train.json").read_text())["model_digest"]
    served = trained / "served"
    served.mkdir()
    # What kserve-deploy copies to the model store.
    for name, content in bundle.load(trained / "model/bundle", digest, exact=False).content.items():
        (served / name).write_bytes(content)
    entry = image("pinn-api").config["Entrypoint"]
    variables = [f"MODEL_DIGEST={digest}", "MODEL_VERSION=1.1.0", "TRACK=blue"]
    mounts = [(served, "/mnt/models", "ro")]
    done = image("pinn-api").python(CLIENT.format(entry=entry), env=variables, mounts=mounts)
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["digest"], answer["exit"]) == (digest, 0)
    assert answer["body"]


def test_data_image_has_git_dvc_and_an_ssh_that_takes_a_user_without_a_name(image: Images) -> None:
    for command in (["git", "--version"], ["python", "-m", "dvc", "version"]):
        done = image("data").run(command)
        assert done.returncode == 0, (command, done.stderr)
    refused = image("data").run(["ssh", "-o", "BatchMode=yes", "git@127.0.0.1"])
    assert "No user exists" not in refused.stderr
    assert "connect to host 127.0.0.1" in refused.stderr


class Bucket(BaseHTTPRequestHandler):
    """Bucket `models` with one object, as far as a download asks: HEAD, a listing, GET; no signature is checked."""

    key, body = "plate/sha256-1/model.onnx", b"a model"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        listing = f"<Contents><Key>{self.key}</Key><Size>{len(self.body)}</Size></Contents>"
        body = self.body if path == f"/models/{self.key}" else b""
        if path.rstrip("/") == "/models" and query:
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{listing}</ListBucketResult>".encode()
        self.send_response(200 if body or path.rstrip("/") == "/models" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


CREDENTIALS = ["AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=nothing", "AWS_DEFAULT_REGION=us-east-1"]


def test_storage_initializer_brings_a_model_from_s3(image: Images, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o777)
    entry = image("storage-initializer").config["Entrypoint"]
    assert entry == ["/storage-initializer/scripts/initializer-entrypoint"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = image("storage-initializer").run(
            [*entry, "s3://models/plate/sha256-1", "/mnt/models"],
            mounts=[(target, "/mnt/models", "rw")],
            env=[*CREDENTIALS, f"AWS_ENDPOINT_URL=http://127.0.0.1:{server.server_port}"],
            network=True,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert (target / "model.onnx").read_bytes() == Bucket.body


def test_storage_initializer_fails_where_it_brings_nothing(image: Images) -> None:
    entry = image("storage-initializer").config["Entrypoint"]
    assert image("storage-initializer").run(entry).returncode == 2
    variables = [*CREDENTIALS, "AWS_MAX_ATTEMPTS=1", "AWS_ENDPOINT_URL=http://127.0.0.1:9"]
    done = image("storage-initializer").run([*entry, "s3://models/one", "/tmp/models"], env=variables)
    assert done.returncode == 1
    assert "error:" in done.stderr
