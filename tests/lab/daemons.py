"""Daemons of the lab: started detached with a pid file each, ended by that very life of the pid, never by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from isotherm_local.processes import Process, end, last_line
from lab.part import CHECKOUT, Lab, LabError


def _pid_file(lab: Lab, name: str) -> Path:
    return lab.folder("pids") / f"{name}.json"


def find(lab: Lab, name: str) -> Process | None:
    """The running process of daemon `name`, or None."""
    try:
        process = Process(**json.loads(_pid_file(lab, name).read_text()))
    except (OSError, ValueError):
        return None
    return process if process.alive() else None


def start(
    lab: Lab, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Start a daemon unless it runs; it outlives this program. `env` is added to a minimal environment."""
    if find(lab, name):
        return
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(lab.folder("home")),
    }
    with lab.log(name).open("ab") as log:
        child = subprocess.Popen(
            list(command),
            env=environment | {"LANG": "C.UTF-8"} | dict(env or {}),
            cwd=cwd or lab.state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process.of(child.pid)
    partial = _pid_file(lab, f".{name}")
    partial.write_text(json.dumps({"pid": process.pid, "identity": process.identity}))
    partial.replace(_pid_file(lab, name))


def start_module(lab: Lab, name: str, module: str, *arguments: str) -> None:
    """Start a program of the lab's own (`python -m module`) as a daemon."""
    path = ":".join(str(CHECKOUT / folder) for folder in ("tests", "scripts", "images"))
    start(lab, name, [sys.executable, "-m", module, *arguments], env={"PYTHONPATH": path})


def stop(lab: Lab, name: str, grace_seconds: float = 10.0) -> None:
    """End a daemon and everything in its session (it was started as a leader of one)."""
    process = find(lab, name)
    if process:
        end([process], grace_seconds)
        end([member for member in session(process.pid) if member.alive()], 2.0)
    _pid_file(lab, name).unlink(missing_ok=True)


def session(leader: int) -> list[Process]:
    """The processes of a session, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.append(Process.of(int(entry.name)))
    return found


def names(lab: Lab) -> list[str]:
    """Daemons that were started and not stopped."""
    return sorted(path.stem for path in lab.folder("pids").glob("[!.]*.json"))


def since(lab: Lab, name: str) -> float:
    """When the daemon was started, seconds since the epoch."""
    return _pid_file(lab, name).stat().st_mtime


def require(lab: Lab, name: str) -> str:
    """ "" while the daemon runs; raises `LabError` with the last line of its log when it has ended."""
    if not _pid_file(lab, name).exists():
        raise LabError("not started")
    if find(lab, name) is None:
        raise LabError(f"{name} ended: {last_line(lab.log(name)) or 'it wrote nothing'}; its log is {lab.log(name)}")
    return ""


def as_user(user: str, command: Sequence[str]) -> list[str]:
    """The command that runs as an ordinary user (PostgreSQL and Gitea refuse to be root)."""
    return (
        ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *command]
        if os.geteuid() == 0
        else list(command)
    )
