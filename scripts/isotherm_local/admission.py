"""Which Route carries which host, and what the router says about it in `status.ingress`.

Pure functions on Routes as JSON. Source: openshift/router, pkg/router/controller (`unique_host.go`, `status.go`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isotherm_local.kinds import DNS_LABEL, DNS_SUBDOMAIN, Object

ROUTER_NAME = "default"
DOMAIN = "localhost"


@dataclass(frozen=True)
class Verdict:
    """Whether a Route is carried, and where it is not: why, in a word and in a sentence."""

    admitted: bool
    reason: str = ""
    message: str = ""

    @property
    def condition(self) -> dict[str, str]:
        """The `Admitted` condition, without the time of its last change."""
        words = {"reason": self.reason, "message": self.message}
        return {"type": "Admitted", "status": str(self.admitted)} | {k: text for k, text in words.items() if text}


def host_of(route: Object) -> str:
    """Read the host that a Route claims; empty where it has none yet."""
    return str(route["spec"].get("host") or "")


def is_host(host: str) -> bool:
    """Tell whether a text is a DNS name that a Route may claim."""
    return bool(DNS_SUBDOMAIN.fullmatch(host)) and all(DNS_LABEL.fullmatch(label) for label in host.split("."))


def _unservable(route: Object) -> Verdict | None:
    """Refuse what this router does not carry, rather than carry it otherwise than asked."""
    spec, host = route["spec"], host_of(route)
    if not is_host(host):
        return Verdict(False, "InvalidHost", f"spec.host {host!r} is not a lower-case DNS name")
    termination = (spec.get("tls") or {}).get("termination") or "edge"
    asked = {
        "spec.path": spec.get("path") not in (None, "", "/"),
        f"spec.tls.termination {termination}": termination != "edge",
        "spec.wildcardPolicy": spec.get("wildcardPolicy") not in (None, "", "None"),
    }
    unsupported = [field for field, is_asked in asked.items() if is_asked]
    if unsupported:
        what = (
            f"this router carries whole hosts, plain or with edge termination; it has no {' and no '.join(unsupported)}"
        )
        return Verdict(False, "NotSupported", what)
    return None


def decide(routes: Sequence[Object]) -> dict[str, Verdict]:
    """Decide by uid which Routes are carried: of those that claim one host, the oldest."""
    verdicts: dict[str, Verdict] = {}
    holders: dict[str, Mapping[str, Any]] = {}
    for route in sorted(routes, key=lambda r: (r["metadata"]["creationTimestamp"], r["metadata"]["uid"])):
        metadata, host = route["metadata"], host_of(route)
        refused = _unservable(route)
        holder = metadata if refused else holders.setdefault(host, metadata)
        if holder["uid"] != metadata["uid"]:
            message = f"route {holder['namespace']}/{holder['name']} already exposes {host}"
            refused = Verdict(False, "HostAlreadyClaimed", message)
        verdicts[metadata["uid"]] = refused or Verdict(True)
    return verdicts


def ingress(route: Object, verdict: Verdict, now: str, domain: str = DOMAIN) -> list[Object]:
    """Render `status.ingress`: our entry, what other routers wrote beside it; the old list where nothing changed."""
    entries = (route.get("status") or {}).get("ingress") or []
    mine: Object = next((entry for entry in entries if entry.get("routerName") == ROUTER_NAME), {})
    old: Object = next((c for c in mine.get("conditions") or [] if c.get("type") == "Admitted"), {})
    condition = verdict.condition
    same = {key: value for key, value in old.items() if key != "lastTransitionTime"} == condition
    entry = {
        "host": host_of(route),
        "routerName": ROUTER_NAME,
        "routerCanonicalHostname": f"router-default.apps.{domain}",
        "wildcardPolicy": "None",
        "conditions": [condition | {"lastTransitionTime": old["lastTransitionTime"] if same else now}],
    }
    return [entry if other is mine else other for other in entries] if mine else [*entries, entry]
