"""The run manifest E = (D, M, Theta, R): what one experiment was, in exactly four blocks.

D  the data: hashes, versions, rows, held-out rule     M  the model: networks, problem, equation
Theta  what was chosen: recipe, weights, seeds         R  the result: metrics, model digest, environment
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

BLOCKS = ("D", "M", "Theta", "R")


def build(
    *, D: Mapping[str, Any], M: Mapping[str, Any], Theta: Mapping[str, Any], R: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest with its own digest, which becomes tag `run_manifest`.

    Raises ValueError on NaN or infinity.
    """
    blocks = {"D": dict(D), "M": dict(M), "Theta": dict(Theta), "R": dict(R)}
    return {"schema_version": 1, **blocks, "digest": digest(blocks)}


def digest(manifest: Mapping[str, Any]) -> str:
    """Hash the four blocks in canonical JSON (sorted keys, no spaces): equal experiments have equal digests."""
    canonical = json.dumps(
        {block: manifest[block] for block in BLOCKS}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
