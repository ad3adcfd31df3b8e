"""The values of a webhook's Secret: `current` and, while it is being replaced, `previous`; both are valid.

Reads   a folder into which kubelet writes the Secret's keys as files
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FILES = ("current", "previous")


def read(folder: Path) -> Sequence[bytes]:
    """Read the values as they are; to be called anew for each event, as kubelet replaces the files."""
    found = []
    for name in FILES:
        try:
            found.append((folder / name).read_bytes())
        except OSError:
            continue
    return [value for value in found if value.strip()]
