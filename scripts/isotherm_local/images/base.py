"""The base that stands in for UBI where no registry can be reached: a minimal Debian with Python, by debootstrap."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from isotherm import tekton
from isotherm_local.images import engines

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# An image needs neither documentation nor translations; later packages leave theirs out too.
EXCLUDED = ("usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man")
DROPPED = ("var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "var/log", "dev", "proc", "run", "sys", "tmp")
CONTAINERFILE = """FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["/bin/sh"]
"""


def key(mirror: str) -> str:
    """Hash what decides the base."""
    recipe = (SUITE, PACKAGES, EXCLUDED, DROPPED, CONTAINERFILE, platform.machine(), mirror, "1")
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def possible() -> str | None:
    """Say why the base cannot be made here, or None."""
    if os.geteuid() != 0:
        return "debootstrap needs root"
    return None if shutil.which("debootstrap", path=_path()) else "debootstrap not found"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def archive(cache: Path, mirror: str, progress: engines.Progress) -> Path:
    """Return the base's folder with its Containerfile and root file system, made where it is not there yet."""
    folder = cache / "base" / key(mirror)
    if (folder / "Containerfile").exists():
        return folder
    complaint = possible()
    if complaint:
        raise tekton.Unavailable(
            f"the Debian base cannot be made: {complaint}",
            remedy="install debootstrap and be root, or give another base (--base ubi, --base IMAGE)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place) / "root"
        _debootstrap(root, mirror, cache / "logs" / "base.log", progress)
        _trim(root)
        partial = Path(place) / "rootfs.tar"
        # Sorted and with plain numbers for owners, so that the archive follows from its content alone.
        subprocess.run(["tar", "--sort=name", "--numeric-owner", "-C", root, "-cf", partial, "."], check=True)
        partial.rename(folder / "rootfs.tar")
    # Written last: it marks the base complete.
    (folder / "Containerfile").write_text(CONTAINERFILE)
    return folder


def _debootstrap(root: Path, mirror: str, log: Path, progress: engines.Progress) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    tool = engines.Engine("debootstrap", tuple(command), (), {"PATH": _path(), "DEBIAN_FRONTEND": "noninteractive"})
    engines.run(tool, [mirror] if mirror else [], log, progress)


def _trim(root: Path) -> None:
    for name in (*EXCLUDED, *DROPPED):
        for inner in (root / name).glob("*"):
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()
    rules = "".join(f"path-exclude=/{name}/*\n" for name in EXCLUDED)
    (root / "etc/dpkg/dpkg.cfg.d/isotherm").write_text(rules)
    for name in ("hostname", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)


def image(engine: engines.Engine, cache: Path, mirror: str, progress: engines.Progress) -> str:
    """Make the base and put it into the tool's store; return its name there."""
    tag = f"localhost/isotherm/debian-base:{key(mirror)}"
    folder = archive(cache, mirror, progress)
    wanted = engines.Build(folder / "Containerfile", folder, tag)
    engines.build(engine, wanted, cache / "logs" / "base-import.log", progress)
    return tag
