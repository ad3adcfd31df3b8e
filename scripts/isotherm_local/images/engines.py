"""The tools that build an image from a Containerfile: buildah, podman or docker, whichever is there.

buildah and podman keep everything in a folder of ours and leave nothing mounted; docker's store is its daemon's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isotherm import tekton

NAMES = ("buildah", "podman", "docker")
# As much of an identifier as a build prints.
SHORT = 11
_CLOSING = ("Error: building at STEP", "subprocess exited", "exit status")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """One of the tools: the command with its global options, and the options that its `build` needs here."""

    name: str
    command: tuple[str, ...]
    build_options: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_volumes(self) -> bool:
        """Tell whether a build can see folders of this machine; docker's daemon cannot."""
        return self.name != "docker"

    def environment(self) -> dict[str, str]:
        """Give the variables that the tool runs with."""
        return {**os.environ, **self.variables}


def _runs(command: Sequence[str], variables: Mapping[str, str]) -> str | None:
    """Run a command to see whether it works; return its complaint, or None."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _containers(name: str, cache: Path) -> Engine:
    """Describe buildah or podman with a store of its own; overlay where the kernel and the file system carry it."""
    temporary = cache / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    variables = {"TMPDIR": str(temporary)}
    complaint: str | None = ""
    for driver in ("overlay", "vfs"):
        store = cache / "storage" / driver
        # Without skip_mount_home the overlay driver leaves its folder mounted on itself.
        options = ["--storage-opt", "overlay.skip_mount_home=true"] if driver == "overlay" else []
        command = [name, "--root", str(store / "root"), "--runroot", str(store / "run")]
        command += ["--storage-driver", driver, *options]
        complaint = _runs([*command, "info"], variables)
        if complaint is None:
            isolation = os.environ.get("BUILDAH_ISOLATION", "chroot")
            build = ("--isolation", isolation, "--layers", "--force-rm", "--pull=false", "--format", "oci")
            return Engine(name, tuple(command), build, variables)
    raise tekton.Unavailable(f"{name} cannot keep images under {cache} ({complaint})", remedy="see `--cache`")


def choose(cache: Path, wanted: str = "") -> Engine:
    """Choose the tool of that name, or the first of buildah, podman and docker that works.

    Raises `tekton.Unavailable` where there is none.
    """
    complaints = []
    for name in (wanted,) if wanted else NAMES:
        if shutil.which(name) is None:
            complaints.append(f"{name} not found")
        elif name == "docker":
            complaint = _runs(["docker", "version", "--format", "{{.Server.Version}}"], {})
            if complaint is None:
                return Engine("docker", ("docker",), (), {"DOCKER_BUILDKIT": "1"})
            complaints.append(f"docker does not answer ({complaint})")
        else:
            return _containers(name, cache)
    raise tekton.Unavailable(
        f"no tool can build images here: {', '.join(complaints)}",
        remedy="install buildah or podman (Debian: apt-get install buildah), or start docker",
    )


def release(cache: Path) -> None:
    """Unmount what a build that was cut off has left mounted below `cache`."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{cache}/")]):
        subprocess.run(["umount", mount], capture_output=True, check=False)


def _named(text: str) -> set[str]:
    """Name the images that a build's output speaks of: steps taken from the cache, and new ones."""
    return {found[:SHORT] for found in re.findall(r"^(?:--> (?:Using cache )?|)([0-9a-f]{11,64})$", text, re.MULTILINE)}


def prune(engine: Engine, logs: Path) -> None:
    """Remove the layers that the last build of no image has used; docker looks after its own."""
    if engine.name == "docker":
        return
    used = set[str]().union(*(_named(log.read_text(errors="replace")) for log in logs.glob("*.log")))
    listed = subprocess.run(
        [*engine.command, "images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Name}}"],
        env=engine.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = [line.removeprefix("sha256:").split() for line in listed.stdout.splitlines() if line.strip()]
    unused = [row[0] for row in rows if row[0][:SHORT] not in used and row[1:] in ([], ["<none>"])]
    # Newest first: an image goes before those that it was made from. What is in use after all stays.
    for identifier in unused:
        subprocess.run([*engine.command, "rmi", identifier], env=engine.environment(), capture_output=True, check=False)


def discard(engine: Engine) -> None:
    """Remove the working containers of builds that were cut off; the caller holds the lock of the store."""
    if engine.name != "docker":
        subprocess.run([*engine.command, "rm", "--all"], env=engine.environment(), capture_output=True, check=False)


def run(engine: Engine, arguments: Sequence[str], log: Path, progress: Progress, *, append: bool = False) -> None:
    """Run the tool with its output into `log`, its steps to `progress`.

    Raises `tekton.Unavailable` with the last line of the output where it fails.
    """
    last = ""
    with log.open("a" if append else "w", encoding="utf-8", errors="replace") as file:
        child = subprocess.Popen(
            [*engine.command, *arguments],
            env=engine.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert child.stdout is not None  # noqa: S101 (it is a pipe)
        for line in child.stdout:
            file.write(line)
            # The tool's own closing words repeat the command; what went wrong stands above them.
            if line.strip() and not line.startswith(_CLOSING):
                last = line.strip()
            progress(line.rstrip())
        code = child.wait()
    if code:
        raise tekton.Unavailable(f"{engine.name} {' '.join(arguments[:1])} failed: {last}", remedy=f"read {log}")


@dataclass(frozen=True)
class Build:
    """What one build is given."""

    containerfile: Path
    context: Path
    tag: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()


def build(engine: Engine, wanted: Build, log: Path, progress: Progress) -> None:
    """Build one image into the tool's own store."""
    options = [*engine.build_options, "--file", str(wanted.containerfile), "--tag", wanted.tag]
    for name, value in wanted.arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    for name, value in wanted.labels.items():
        options += ["--label", f"{name}={value}"]
    for volume in wanted.volumes if engine.takes_volumes else ():
        options += ["--volume", volume]
    run(engine, ["build", *options, str(wanted.context)], log, progress)


def export(engine: Engine, tag: str, reference: str, folder: Path, log: Path) -> None:
    """Write an image of the tool's store as an OCI layout in `folder`, layers compressed."""
    if engine.name != "docker":
        run(engine, ["push", tag, f"oci:{folder}:{reference}"], log, lambda _: None, append=True)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        saved = Path(place) / "saved.tar"
        run(engine, ["save", "--output", str(saved), tag], log, lambda _: None, append=True)
        copy(f"docker-archive:{saved}", f"oci:{folder}:{reference}")


def copy(source: str, target: str, *options: str) -> None:
    """Copy an image between places with skopeo. Raises `tekton.Unavailable` where it is missing or fails."""
    if shutil.which("skopeo") is None:
        raise tekton.Unavailable("skopeo not found", remedy="install it (Debian: apt-get install skopeo)")
    complaint = _runs(["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, target], {})
    if complaint is not None:
        raise tekton.Unavailable(f"skopeo could not copy to {target} ({complaint})", remedy="check the place and login")
