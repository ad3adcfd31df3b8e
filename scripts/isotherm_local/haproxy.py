"""The HAProxy process of a router: its configuration checked, loaded without losing a request, and read back.

Inputs   a `Configuration`; with TLS the file `router.pem` in the folder
Outputs  `<folder>/haproxy.cfg` and map files, a running HAProxy, `haproxy.log` beside the folder
"""

from __future__ import annotations

import asyncio
import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import tekton
from isotherm_local import ports, processes
from isotherm_local.translation import Configuration, Listeners

if TYPE_CHECKING:
    from isotherm_local.supervisor import Children

SETTLE_SECONDS = 5.0
_INSTALL = {
    "apt-get": "sudo apt-get install -y haproxy",
    "dnf": "sudo dnf install -y haproxy",
    "microdnf": "sudo microdnf install -y haproxy",
    "zypper": "sudo zypper -n install haproxy",
}
NO_ROUTE = "503: no Route claims this host; send the Host header of a Route (spec.host)\n"


def program() -> str:
    """Find HAProxy, also in the sbin folders; refuse with the command that installs it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which("haproxy", path=path)
    if found is None:
        remedy = next((command for manager, command in _INSTALL.items() if shutil.which(manager)), None)
        raise tekton.Unavailable("HAProxy is not installed", remedy=f"run: {remedy or 'install the package haproxy'}")
    return found


class HAProxy:
    """One HAProxy in master-worker mode in a folder of its own: check, start, reload, read back."""

    def __init__(self, folder: Path, listeners: Listeners, children: Children, executable: str) -> None:
        self.folder, self.listeners, self.children, self.executable = folder, listeners, children, executable
        self.child: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        tekton.write_atomic(folder / "no-route.txt", NO_ROUTE)

    @property
    def log(self) -> Path:
        """The log of all its lives."""
        return self.folder.parent / "haproxy.log"

    def write(self, configuration: Configuration) -> None:
        """Install a configuration that HAProxy itself accepts; raises `BadInput` with its words, the old one stays."""
        candidate = self.folder / "candidate.cfg"
        maps = {self.folder / name: text for name, text in configuration.maps.items()}
        previous = {path: path.read_text() for path in maps if path.exists()}
        tekton.write_atomic(candidate, configuration.text)
        self._write_maps(maps)
        command = [self.executable, "-c", "-f", candidate.name]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            self._write_maps(previous)
            words = "; ".join(re.findall(r"\[ALERT\]\s*\(\d+\) : (.*)", done.stderr)[:3]) or done.stderr
            raise tekton.BadInput(f"HAProxy refuses the configuration: {words}", remedy=f"look at {candidate}")
        candidate.replace(self.folder / "haproxy.cfg")

    @staticmethod
    def _write_maps(maps: Mapping[Path, str]) -> None:
        for path, text in maps.items():
            tekton.write_atomic(path, text)

    async def load(self, configuration: Configuration) -> None:
        """Check, start or reload, and wait until HAProxy says that it runs the configuration.

        Raises `BadInput` where HAProxy refuses it, `Unavailable` where a port is taken or HAProxy does not take it.
        """
        self.write(configuration)
        if self.running():
            self.reload()
        else:
            self._check_ports()
            self.start()
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.generation() != configuration.generation:
            if not self.running() or time.monotonic() > deadline:
                cause = processes.last_line(self.log)
                raise tekton.Unavailable(f"HAProxy did not take the configuration: {cause}", remedy=f"see {self.log}")
            await asyncio.sleep(0.01)

    def _check_ports(self) -> None:
        for part, port in self.listeners.ports.items():
            if not ports.port_is_free(port, self.listeners.address):
                what = f"port {port}, where the router should listen, is taken"
                raise tekton.Unavailable(what, remedy=ports.remedy(part, port))

    def alive(self) -> bool:
        """Tell whether its process is there; says so a moment less long than `running`."""
        return self.children.alive("haproxy")

    def running(self) -> bool:
        """Tell whether the master process runs."""
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        """Start the master on the written configuration."""
        env = processes.environment(self.folder, Path("/usr/sbin"))
        command = [self.executable, "-W", "-f", "haproxy.cfg"]
        self.child = self.children.start("haproxy", command, env=env, cwd=self.folder, log_file=self.log)

    def reload(self) -> None:
        """Make the master start a worker on the written configuration; the old one finishes what it has."""
        if self.child is not None:
            self.child.send_signal(signal.SIGUSR2)

    def command(self, text: str) -> str:
        """Send one command to the stats socket and return the answer; empty when HAProxy does not answer."""
        folder = os.open(self.folder, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(1.0)
                # A UNIX socket's path holds 108 characters, a checkout's folder may be longer.
                client.connect(f"/proc/self/fd/{folder}/haproxy.sock")
                client.sendall(f"{text}\n".encode())
                parts = []
                while part := client.recv(65536):
                    parts.append(part)
                return b"".join(parts).decode()
        except OSError:
            return ""
        finally:
            os.close(folder)

    def generation(self) -> str:
        """Read back which configuration the worker that answers has loaded; empty when none answers."""
        lines = self.command("show info").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("description:")), "")

    def statistics(self) -> list[dict[str, str]]:
        """Read HAProxy's own counters: a row per frontend, backend and server."""
        return list(csv.DictReader(self.command("show stat").removeprefix("# ").splitlines()))
