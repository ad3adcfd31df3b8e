"""The OpenShift router's weight rules: which share of a Route's requests each Service really gets.

Pure functions, no I/O; the arithmetic itself is `isotherm.deploy.weights`. Source: openshift/router,
pkg/router/template/router.go (`getServiceUnitWeight`) and haproxy-config.template (`balance`, `cookie`), as of 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isotherm.contract import ANNOTATION_DISABLE_COOKIES
from isotherm.deploy import weights as arithmetic

MAX_WEIGHT = arithmetic.LARGEST
ANNOTATION_BALANCE = "haproxy.router.openshift.io/balance"
ANNOTATION_COOKIE_NAME = "router.openshift.io/cookie_name"
ALGORITHMS = ("roundrobin", "leastconn", "source", "random")
_TRUE = ("1", "t", "true")


def clamp(weight: int | None) -> int:
    """Bring a weight into 0..256; a missing one counts as 1 (the API sets its own default, 100, before)."""
    return 1 if weight is None else max(0, min(MAX_WEIGHT, weight))


def route_weights(spec: Mapping[str, Any]) -> dict[str, int]:
    """Read the weight of each Service from a Route's `spec`; of a Service named twice the last weight counts."""
    backends = [spec["to"], *(spec.get("alternateBackends") or [])]
    return {backend["name"]: clamp(backend.get("weight")) for backend in backends}


def _clamped(weights: Mapping[str, int]) -> dict[str, int]:
    return {name: clamp(weight) for name, weight in weights.items()}


def endpoint_weights(weights: Mapping[str, int], endpoints: Mapping[str, int]) -> dict[str, int]:
    """Compute the weight that HAProxy gives to every single endpoint of each Service (0..256).

    `weights` are the Route's (clamped here), `endpoints` the number of ready endpoints by Service. A Service without
    endpoints is left out, so its share goes to the others.
    """
    return arithmetic.endpoint_weights(_clamped(weights), endpoints)


def achieved_share(weights: Mapping[str, int], endpoints: Mapping[str, int]) -> dict[str, float]:
    """Tell the share of requests (0..1) that each Service of a Route really gets, without cookies.

    All shares are 0 where the router answers 503: no endpoints, or all weights 0.
    """
    return arithmetic.expected_shares(_clamped(weights), endpoints)


def balance(weights: Mapping[str, int], annotations: Mapping[str, str]) -> str:
    """Choose the algorithm: the Route's annotation, else roundrobin once two Services have weight, else random."""
    asked = annotations.get(ANNOTATION_BALANCE)
    if asked in ALGORITHMS:
        return asked
    return "roundrobin" if sum(clamp(weight) > 0 for weight in weights.values()) > 1 else "random"


def cookies_enabled(annotations: Mapping[str, str]) -> bool:
    """Tell whether a cookie makes clients sticky; then a Service of weight 0 still serves who holds its cookie."""
    return annotations.get(ANNOTATION_DISABLE_COOKIES, "").lower() not in _TRUE
