"""Durations as Tekton writes them."""

from __future__ import annotations

import re

_UNITS = {"h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")


def seconds(text: object) -> float:
    """Read `1h30m` as 5400; 0 (Tekton's own word for none) where the text is missing or malformed."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([hms])", text))
