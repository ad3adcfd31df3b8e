"""What share of requests a Route's weights really give: the router's own arithmetic, as pure functions.

Inputs: weights and numbers of endpoints by colour. Outputs: shares that sum to 1, and how far counts may stray.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping

LARGEST = 256


def endpoint_weights(weights: Mapping[str, int], endpoints: Mapping[str, int]) -> dict[str, int]:
    """HAProxy's weight of each endpoint by colour, as the OpenShift router sets it.

    weight / endpoints, scaled so that the largest is 256, truncated, at least 1; with one active Service its
    endpoints get 1. A Service without endpoints takes no part. Source: openshift/router, `calculateServiceWeights`.
    """
    present = {colour: weight for colour, weight in weights.items() if endpoints.get(colour, 0) > 0}
    active = [colour for colour, weight in present.items() if weight > 0]
    if len(active) <= 1:
        return {colour: int(colour in active) for colour in present}
    each = {colour: _single(weight / endpoints[colour]) for colour, weight in present.items()}
    scale = _single(LARGEST / max(each.values()))
    return {colour: max(1, int(_single(weight * scale))) if weight > 0 else 0 for colour, weight in each.items()}


def _single(number: float) -> float:
    """Round to single precision, in which the router computes before it truncates."""
    return ctypes.c_float(number).value


def expected_shares(weights: Mapping[str, int], endpoints: Mapping[str, int]) -> dict[str, float]:
    """Share of requests of each colour; all zero where nothing can answer (the router then says 503)."""
    scaled = endpoint_weights(weights, endpoints)
    mass = {colour: scaled.get(colour, 0) * endpoints.get(colour, 0) for colour in weights}
    total = sum(mass.values())
    return {colour: part / total if total else 0.0 for colour, part in mass.items()}


def tolerance(share: float, requests: int) -> float:
    """Three standard deviations of a binomial share, plus one request for a count's granularity; 0 for a share of 0 or
    1.
    """
    if share in (0.0, 1.0):
        return 0.0
    return 3 * math.sqrt(share * (1 - share) / requests) + 1 / requests
