"""What stands for an image here: its family's environment, a digest, the source's version, a clean set of variables."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from isotherm_local.runner.specs import Source

# Certificates, the accelerator, threads, the place of temporary files; nothing that could carry a credential.
_PASSED_ON = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "TZ",
)
# Images of plain systems and languages, whose programs this machine may have; those of a certain tool are not here.
_BASES = ("alpine", "bash", "busybox", "debian", "fedora", "node", "perl", "python", "ubi-minimal", "ubi9", "ubuntu")
_BUSYBOX = ("alpine", "bash", "busybox")
_FAMILY = re.compile(r"(?:.*/)?([a-z0-9][a-z0-9._-]*?)(?::[\w][\w.-]*)?(?:@sha256:[0-9a-f]{64})?")


def family(image: str) -> str:
    """Name an image's family: the last part of its path, without tag and digest; empty where it has no such form."""
    match = _FAMILY.fullmatch(image)
    return match[1] if match else ""


@dataclass(frozen=True)
class Environment:
    """What stands for an image: the folder of its family's environment, or None for this machine's own programs."""

    family: str
    folder: Path | None

    @property
    def search_path(self) -> str:
        """Give PATH, with the environment's programs first."""
        own = os.environ.get("PATH", os.defpath)
        return own if self.folder is None else os.pathsep.join([str(self.folder / "bin"), own])


def environment_of(image: str, source: Source, root: Path, foreign: bool) -> Environment:
    """Find the environment that stands for a step's image; `foreign` lets other images run on this machine itself.

    Raises `BadInput` where the image is of no family and may not, or where its family's environment is not there.
    """
    name = family(image)
    known = sorted(lock.parent.name for lock in (root / "images").glob("*/requirements*.txt"))
    if name not in known:
        if foreign and name in _BASES:
            return Environment(name, None)
        remedy = "use one of them, or run plain images as processes of this machine (--foreign-images host)"
        if foreign:
            remedy = f"this machine stands in for plain images only: {', '.join(_BASES)}"
        raise source.refuse(
            "image",
            problem=f": {image!r} is of none of the families {', '.join(dict.fromkeys(known))}",
            remedy=remedy,
        )
    folder = root / ".venv" / name
    if not (folder / "bin" / "python").exists():
        raise source.refuse(
            "image", problem=f": environment .venv/{name} is not there", remedy="run python3 scripts/setup.py demo"
        )
    return Environment(name, folder)


def program(word: str, environment: Environment) -> str | None:
    """Find a step's program: `python` is the environment's own, others come from its bin folder or PATH.

    The images of busybox have its ash as `sh`, which knows `[[` and `==`; bash stands in for it.
    """
    if environment.folder is not None and word in ("python", "python3"):
        return str(environment.folder / "bin" / "python")
    if environment.folder is None and environment.family in _BUSYBOX and PurePosixPath(word).name in ("sh", "ash"):
        word = "bash"
    return shutil.which(word, path=environment.search_path)


@lru_cache
def reference(root: Path, name: str) -> str:
    """Identify what a step runs: a digest over the package's files and the locks of its family, `source-sha256:...`."""
    digest = hashlib.sha256()
    package = root / "images" / "isotherm"
    files = [file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    for file in sorted([*files, *(root / "images" / name).glob("requirements*.txt")]):
        digest.update(f"{file.relative_to(root)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"source-sha256:{digest.hexdigest()}"


def git_sha(root: Path) -> str:
    """Name the commit that is checked out, `-dirty` where files differ from it; `unknown` without git."""
    command = ["git", "-C", str(root)]
    try:
        sha = subprocess.run(
            [*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
        changed = subprocess.run(
            [*command, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{sha}-dirty" if changed else sha


def variables(root: Path, environment: Environment, home: Path, kubeconfig: Path, sha: str) -> dict[str, str]:
    """Make the variables that a step starts with, in place of an image's own."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    ours = {"IMAGE_REF": reference(root, environment.family), "ISOTHERM_GIT_SHA": sha} if environment.folder else {}
    return {
        **passed_on,
        "PATH": environment.search_path,
        "HOME": str(home),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",
        "KUBECONFIG": str(kubeconfig),
        **ours,
    }
