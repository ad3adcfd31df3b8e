"""A container of an image under what OpenShift's restricted-v2 would enforce, by runc and from the image's own layers.

Enforced by the kernel: a UID without an entry in /etc/passwd and GID 0, no capability, no_new_privs, a root file system
mounted read-only, a writable tmpfs at HOME and /tmp alone, and a network namespace with no way out.
Not enforced: seccomp's RuntimeDefault filter and SELinux.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from isotherm_local.images import layout

UID = 1000680000
GID = 0
# A folder here, its place in the container, and `ro` or `rw`.
Mount = tuple[Path, str, str]
_WHITEOUT = ".wh."
_MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]


def unpack(folder: Path, root: Path) -> None:
    """Lay an image's layers over each other in `root`, as a container runtime does."""
    for layer in layout.layers(folder):
        with tarfile.open(layer) as archive:
            names = [PurePosixPath(name) for name in archive.getnames()]
        for name in names:
            if name.name.startswith(_WHITEOUT):
                _remove(root / name.parent / name.name.removeprefix(_WHITEOUT))
        command = ["tar", "-C", str(root), "--numeric-owner", "--same-permissions", f"--exclude={_WHITEOUT}*"]
        subprocess.run([*command, "-xzf", str(layer)], check=True)


def open_to_all(folder: Path) -> None:
    """Let a container's user pass through pytest's folders, which are closed to others."""
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Image:
    """An unpacked image and its configuration."""

    name: str
    root: Path
    config: dict[str, Any]
    bundles: Path

    def run(
        self, command: Sequence[str], *, mounts: Sequence[Mount] = (), env: Sequence[str] = (), network: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` in a fresh container; `network` lets it reach servers on this machine."""
        identifier = f"isotherm-{uuid.uuid4().hex[:12]}"
        bundle = self.bundles / identifier
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(self._specification(command, mounts, env, network)))
        runc = ["runc", "--root", str(self.bundles / "state"), "run", "--bundle", str(bundle), identifier]
        return subprocess.run(runc, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL)

    def python(self, code: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a few lines of Python, found on PATH as the Tasks find it."""
        return self.run(["python", "-c", code], **options)

    def _specification(
        self, command: Sequence[str], mounts: Sequence[Mount], env: Sequence[str], network: bool
    ) -> dict[str, Any]:
        variables = dict(pair.split("=", 1) for pair in self.config["Env"])
        namespaces = ["pid", "ipc", "uts", "mount", *([] if network else ["network"])]
        nothing = {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": UID, "gid": GID},
                "args": list(command),
                "env": [*self.config["Env"], *env],
                "cwd": self.config.get("WorkingDir") or "/",
                "capabilities": nothing,
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.root), "readonly": True},
            "mounts": [*_system(), *(_writable(place) for place in {variables["HOME"], "/tmp"}), *map(_bind, mounts)],
            "linux": {
                "namespaces": [{"type": kind} for kind in namespaces],
                "maskedPaths": _MASKED,
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        }


def _system() -> list[dict[str, Any]]:
    device = ["nosuid", "strictatime", "mode=755", "size=65536k"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": device},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    ]


def _writable(place: str) -> dict[str, Any]:
    options = ["nosuid", "nodev", "mode=1777", "size=512m"]
    return {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}


def _bind(mount: Mount) -> dict[str, Any]:
    source, place, mode = mount
    return {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", mode]}
