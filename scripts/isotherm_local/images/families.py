"""The images that this checkout can make, and what decides the content of each."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isotherm import tekton
from isotherm_local.images.containerfile import copied

# Raise it when the way images are built changes their content without a change in any file that they copy.
RECIPE = "1"


@dataclass(frozen=True)
class Family:
    """One image: its Containerfile, the folder it is built in, and its build arguments."""

    name: str
    containerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""

    def reference(self, version: str) -> str:
        """Name the image as the Tasks do, in the full form that containerd keeps."""
        return f"docker.io/isotherm/{self.name}:{version}{self.suffix}"

    def files(self) -> Iterator[Path]:
        """List every file that the image is made of, its Containerfile first."""
        yield self.containerfile
        for source in copied(self.containerfile, self.arguments):
            path = self.context / source
            if not path.exists():
                raise tekton.BadInput(f"{self.containerfile} copies {source}, which is not there", remedy="correct it")
            inner = sorted(path.rglob("*")) if path.is_dir() else [path]
            yield from (file for file in inner if file.is_file() and "__pycache__" not in file.parts)


def version(root: Path) -> str:
    """Read the package's version, which is every image's tag."""
    found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise tekton.BadInput("pyproject.toml states no version", remedy="add it")
    return found[1]


def catalog(root: Path, *, cuda: bool = False) -> dict[str, Family]:
    """Find the images of the catalog's Tasks and the predictor."""
    families = {}
    for path in sorted((root / "images").glob("*/Containerfile")):
        gpu = cuda and (path.parent / "requirements-cuda.txt").exists()
        arguments = {"REQUIREMENTS": "requirements-cuda.txt"} if gpu else {}
        families[path.parent.name] = Family(path.parent.name, path, root / "images", arguments, "-cuda" if gpu else "")
    return families


def lab(root: Path) -> dict[str, Family]:
    """Find the images that only the lab needs: stand-ins for what a cluster would pull."""
    return {
        path.parent.name: Family(path.parent.name, path, path.parent)
        for path in sorted((root / "tests" / "lab" / "images").glob("*/Containerfile"))
    }


def choose(root: Path, names: list[str], *, with_lab: bool, cuda: bool) -> list[Family]:
    """Choose the named families; without names, the catalog's, and the lab's where asked for."""
    catalogued, others = catalog(root, cuda=cuda), lab(root)
    known = {**catalogued, **others}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise tekton.BadInput(f"no image is called {unknown[0]!r}", remedy=f"choose from {', '.join(known)}")
    return [known[name] for name in names or [*catalogued, *(others if with_lab else [])]]


def commit(root: Path, family: Family) -> str:
    """Name the commit that is checked out, `-dirty` where this image's files differ from it; `unknown` without git."""
    git = ["git", "-C", str(root)]
    files = [str(file) for file in family.files()]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        status = [*git, "status", "--porcelain", "--ignored=no", "--", *files]
        changed = subprocess.run(status, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def key(family: Family, base: str, sha: str) -> str:
    """Hash what decides the image's content: its files, its build arguments, its base.

    The commit counts only as clean or not: an image whose files did not change keeps the commit that it was built from.
    """
    digest = hashlib.sha256(f"{RECIPE}\0{base}\0{sorted(family.arguments.items())}\0".encode())
    digest.update(sha.rpartition("-")[2].encode() if sha.endswith("-dirty") or sha == "unknown" else b"clean")
    for file in family.files():
        digest.update(f"{file.relative_to(family.context)}\0{file.stat().st_mode & 0o111:o}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
