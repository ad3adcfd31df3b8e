"""Loopback ports of the local target: free, taken, chosen."""

from __future__ import annotations

import socket

from isotherm import tekton

PARTS = ("api", "router", "mlflow")


def free_port() -> int:
    """Ask the kernel for a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Tell whether a server may listen on a port of this machine's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def remedy(part: str, port: int) -> str:
    """Say what to do about a taken port."""
    return f"give another --{part}-port, or end what listens there (ss -ltnp 'sport = :{port}')"


def choose_ports(asked: dict[str, int | None], before: dict[str, int]) -> dict[str, int]:
    """Choose a port per part: the one asked for, else the last one where it is free, else any free one.

    Raises `BadInput` naming a port that is asked for and taken.
    """
    chosen: dict[str, int] = {}
    for part in PARTS:
        port = asked[part]
        if port is not None and (not 1 <= port <= 65535 or not port_is_free(port) or port in chosen.values()):
            raise tekton.BadInput(f"port {port} for {part} is taken or not a port", remedy=remedy(part, port))
        if port is None and before.get(part) and before[part] not in chosen.values() and port_is_free(before[part]):
            port = before[part]
        while port is None or port in chosen.values():
            port = free_port()
        chosen[part] = port
    return chosen
