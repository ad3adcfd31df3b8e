"""Images without a registry: archives of one layer, imported straight into containerd.

A registry on loopback would also do; importing is simpler (no TLS, no mirror configuration, nothing more to run), and a
digest still means something: an image is also imported under NAME@sha256:..., which is how overlays/prod asks for it.
Kubernetes normalises `isotherm/ops:0.1.0` to `docker.io/isotherm/ops:0.1.0`, so that is the name in containerd.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import golang, node
from lab.part import Lab, LabError, Part

NOBODY = "65532"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAUSE = "lab.local/pause:1"
_PAUSE_C = """\
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""
# module -> {program: (path inside its image)}; the images are named lab.local/MODULE/PROGRAM:KEY.
PLACES = {
    "coredns": {"coredns": "/coredns"},
    "pipelines": {
        "controller": "/ko-app/controller", "webhook": "/ko-app/webhook", "events": "/ko-app/events",
        "resolvers": "/ko-app/resolvers", "entrypoint": "/ko-app/entrypoint", "nop": "/ko-app/nop",
        "workingdirinit": "/ko-app/workingdirinit", "sidecarlogresults": "/ko-app/sidecarlogresults",
    },
    "triggers": {
        "controller": "/ko-app/controller", "webhook": "/ko-app/webhook",
        "eventlistenersink": "/ko-app/eventlistenersink", "interceptors": "/ko-app/interceptors",
    },
    "kserve": {"manager": "/manager"},
    "rollouts": {"rollouts-controller": "/bin/rollouts-controller"},
}  # fmt: skip
TINI = "/usr/bin/tini-static"  # Tekton's resolvers start under /sbin/tini


def name(module: str, program: str) -> str:
    """The image of a program: its tag changes with its sources, so no node serves an old one."""
    return f"lab.local/{module}/{program}:{golang.key(module)}"


def layer(target: Path, files: Mapping[str, Path]) -> None:
    """Write one layer: `files` by their path inside, all executable, and /tmp."""
    with tarfile.open(target, mode="w") as tar:
        folders = {str(parent) for path in files for parent in list(Path(path).parents)[:-1]}
        for folder, mode in [*((f, 0o755) for f in sorted(folders)), ("/tmp", 0o1777)]:
            entry = tarfile.TarInfo(folder.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for path, file in files.items():
            entry = tar.gettarinfo(str(file.resolve()), arcname=path.lstrip("/"))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755
            with file.open("rb") as data:
                tar.addfile(entry, data)


def archive(target: Path, names: Sequence[str], content: Path, settings: Mapping[str, object]) -> None:
    """Write a docker archive of one image: its names, its one layer (a tar file), its OCI settings."""
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": dict(settings),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "isotherm lab"}],
        }
    ).encode()
    config_name, layer_name = f"{hashlib.sha256(config).hexdigest()}.json", f"{digest}/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": list(names), "Layers": [layer_name]}]).encode()
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with tarfile.open(partial, "w") as tar:
        for member, data in ((config_name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        tar.add(content, arcname=layer_name)
    partial.replace(target)


def load_programs(lab: Lab, image: str, entrypoint: str, files: Mapping[str, Path]) -> None:
    """Make and import the image of a static program."""
    stem = image.removeprefix("lab.local/").replace("/", "-").replace(":", "-")
    content, target = lab.folder("archives") / f"{stem}.layer", lab.folder("archives") / f"{stem}.tar"
    layer(content, files)
    archive(target, [image], content, {"Entrypoint": [entrypoint], "Env": [_PATH], "User": NOBODY})
    load(target)
    content.unlink()
    target.unlink()


def present() -> set[str]:
    """Names of the images that containerd has."""
    return set(node.ctr("images", "ls", "-q").split())


def load(file: Path) -> None:
    """Import an archive (docker's or OCI's)."""
    node.ctr("images", "import", "--all-platforms", str(file))


def tag(source: str, target: str) -> None:
    """Give an image another name."""
    node.ctr("images", "tag", "--force", source, target)


def _pause(lab: Lab) -> None:
    program = lab.cache / "bin" / "pause"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        command = ["cc", "-static", "-Os", "-x", "c", "-", "-o", str(program)]
        done = subprocess.run(command, input=_PAUSE_C, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"cc cannot build the pause program: {done.stderr.strip()[-300:]}")
    load_programs(lab, PAUSE, "/pause", {"/pause": program})


def import_modules(lab: Lab, *modules: str) -> None:
    """Make and import the images of these modules' programs, those that are missing."""
    have = present()
    for module in modules:
        for program, inside in PLACES[module].items():
            image = name(module, program)
            if image in have:
                continue
            files = {inside: golang.binary(lab, module, program)}
            if (module, program) == ("pipelines", "resolvers"):
                files["/sbin/tini"] = Path(TINI)
            load_programs(lab, image, inside, files)


def start(lab: Lab) -> None:
    """The sandbox image, and those of the cluster's own parts."""
    if PAUSE not in present():
        _pause(lab)


PART = Part(
    "images", start, lambda _: "" if PAUSE in present() else "no pause image", needs=("containerd",),
    packages={"cc": "gcc", TINI: "tini", "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev"}, log="containerd",
)  # fmt: skip
