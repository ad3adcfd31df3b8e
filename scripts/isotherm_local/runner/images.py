"""What stands for an image here: its family's environment, a digest, the source's version, a clean set of variables."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from isotherm_local.runner.specs import Step

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
_FAMILY = re.compile(r"(?:.*/)?([a-z0-9][a-z0-9._-]*?)(?::[\w][\w.-]*)?(?:@sha256:[0-9a-f]{64})?")


def family(image: str) -> str:
    """Name an image's family: the last part of its path, without tag and digest; empty where it has no such form."""
    match = _FAMILY.fullmatch(image)
    return match[1] if match else ""


def environment_of(step: Step, root: Path) -> Path:
    """Find the environment that stands for a step's image.

    Raises `BadInput` where the image is of no family or its environment is not there.
    """
    name = family(step.image)
    known = sorted(lock.parent.name for lock in (root / "images").glob("*/requirements*.txt"))
    if name not in known:
        families = ", ".join(dict.fromkeys(known))
        raise step.source.refuse(
            "image", problem=f": {step.image!r} is of none of the families {families}", remedy="use one of them"
        )
    folder = root / ".venv" / name
    if not (folder / "bin" / "python").exists():
        raise step.source.refuse(
            "image", problem=f": environment .venv/{name} is not there", remedy="run python3 scripts/setup.py demo"
        )
    return folder


def program(word: str, environment: Path) -> str | None:
    """Find a step's program: `python` is the environment's own, others come from its bin folder or PATH."""
    if word in ("python", "python3"):
        return str(environment / "bin" / "python")
    return shutil.which(word, path=search_path(environment))


def search_path(environment: Path) -> str:
    """Give PATH with the environment's programs first."""
    return os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])


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


def variables(root: Path, environment: Path, home: Path, kubeconfig: Path, sha: str) -> dict[str, str]:
    """Make the variables that a step starts with, in place of an image's own."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "PATH": search_path(environment),
        "HOME": str(home),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",
        "KUBECONFIG": str(kubeconfig),
        "IMAGE_REF": reference(root, environment.name),
        "ISOTHERM_GIT_SHA": sha,
    }
