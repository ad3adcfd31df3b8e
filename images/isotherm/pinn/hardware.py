"""Report the machine a training ran on: CPU, MEMORY, DISKS, GPU, PCI DEVICES, TEMPERATURE SENSORS.

Inputs: none. Output: the report as text on standard output, as JSON with --json. A tool that a minimal image lacks is
said so in its section; the
exit code stays 0, because a missing `lspci` is no reason to lose a training.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

COMMAND_TIMEOUT_SECONDS = 10
CPU_LINES = re.compile(r"Model name|Socket|Thread|CPU\(s\)|NUMA|MHz")


def _run(command: list[str]) -> str | None:
    """Return a tool's output, or None where the tool is missing, hangs or fails."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip() if done.returncode == 0 and done.stdout.strip() else None


def _file(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def cpu() -> str | None:
    """Model, sockets, threads and NUMA nodes by lscpu; from /proc/cpuinfo where lscpu is missing."""
    if listing := _run(["lscpu"]):
        return "\n".join(line for line in listing.splitlines() if CPU_LINES.search(line))
    if text := _file("/proc/cpuinfo"):
        names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        return f"Model name: {names[0] if names else 'unknown'}\nCPU(s): {os.cpu_count()}"
    return None


def memory() -> str | None:
    """Memory by free; from /proc/meminfo where free is missing."""
    if listing := _run(["free", "-h"]):
        return listing
    if text := _file("/proc/meminfo"):
        return "\n".join(text.splitlines()[:3])
    return None


def gpu() -> str | None:
    """GPUs by nvidia-smi, else the PCI display adapters."""
    if listing := _run(["nvidia-smi"]):
        return listing
    if listing := _run(["lspci"]):
        found = [line for line in listing.splitlines() if "VGA" in line or "3D controller" in line]
        return "\n".join(found) or "none"
    return None


SECTIONS = {
    "CPU": (cpu, "lscpu"),
    "MEMORY": (memory, "free"),
    "DISKS": (lambda: _run(["lsblk", "-o", "NAME,SIZE,TYPE,MOUNTPOINT"]), "lsblk"),
    "GPU": (gpu, "nvidia-smi or lspci"),
    "PCI DEVICES": (lambda: _run(["lspci", "-nn"]), "lspci"),
    "TEMPERATURE SENSORS": (lambda: _run(["sensors"]), "sensors"),
}


def report() -> dict[str, str]:
    """Return one text per section; a section without its tool says `not available: TOOL not found or gave nothing`."""
    return {
        name: read() or f"not available: {tool} not found or gave nothing" for name, (read, tool) in SECTIONS.items()
    }


def text(sections: dict[str, str]) -> str:
    """Lay the report out for people."""
    return "\n\n".join(f"===== {name} =====\n{body}" for name, body in sections.items()) + "\n"


def tags() -> dict[str, str]:
    """Return the few facts worth searching runs by: processor, threads, memory and GPU."""
    model = re.search(r"Model name:\s*(.+)", cpu() or "")
    total = re.search(r"MemTotal:\s*(\d+)", _file("/proc/meminfo") or "")
    names = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return {
        "hardware.cpu": model[1].strip() if model else "unknown",
        "hardware.threads": str(os.cpu_count() or 0),
        "hardware.memory_gib": f"{int(total[1]) / 2**20:.1f}" if total else "unknown",
        "hardware.gpu": " + ".join(names.splitlines()) if names else "none",
    }


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the sections as one JSON object")
    sections = report() if parser.parse_args().json is False else None
    print(text(sections) if sections else json.dumps({**report(), "tags": tags()}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
