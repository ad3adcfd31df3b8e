"""What a model's Lease knows: which events are done, by which run, and until when the model cools down.

Reads   Lease `isotherm-MODEL`: spec (renewTime, leaseDurationSeconds, holderIdentity) and annotation event-keys
Writes  nothing; `claimed` gives the merge-patch that claims a key, with the cool-down, in one write
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, TypeAdapter, ValidationError

from isotherm import contract, kube, tekton
from isotherm.events import keys

KEPT_KEYS = 200


class Claim(BaseModel, extra="forbid"):
    """One done key: `uid` is the PipelineRun that claimed it, `at` when (RFC 3339)."""

    key: str
    uid: str
    at: str


_CLAIMS = TypeAdapter(list[Claim])


@dataclass(frozen=True)
class Ledger:
    """A model's Lease as it was read: done keys, the oldest first, and the cool-down."""

    claims: Sequence[Claim] = ()
    holder: str = ""
    renewed: datetime | None = None
    cool_seconds: int = 0

    def of(self, key: str) -> Claim | None:
        """The claim of a key; None where it is not done."""
        return next((claim for claim in self.claims if claim.key == key), None)

    def cooling(self, now: datetime) -> datetime | None:
        """When the cool-down ends that `now` lies in; None outside of one."""
        return keys.cooling(now, self.renewed, self.cool_seconds)


def read(stored: kube.Object | None) -> Ledger:
    """Read a Lease. Raises `tekton.Refused` where somebody wrote what cannot be read: guessing could double a run."""
    if stored is None:
        return Ledger()
    spec, name = stored.get("spec") or {}, stored["metadata"]["name"]
    text = (stored["metadata"].get("annotations") or {}).get(contract.ANNOTATION_EVENT_KEYS, "[]")
    try:
        claims = _CLAIMS.validate_json(text)
        renewed = keys.moment(spec["renewTime"]) if spec.get("renewTime") else None
    except (ValidationError, tekton.BadInput) as error:
        reason = " ".join(str(error).split())[:200]
        raise tekton.Refused(
            f"Lease {name} cannot be read: {reason}",
            remedy=f"correct its annotation {contract.ANNOTATION_EVENT_KEYS} (a JSON list of key, uid, at)",
        ) from error
    return Ledger(claims, spec.get("holderIdentity") or "", renewed, spec.get("leaseDurationSeconds") or 0)


def claimed(ledger: Ledger, claim: Claim, run: str, cool_seconds: int, now: datetime) -> kube.Object:
    """The merge-patch that claims a key; without a cool-down of its own it leaves the one that runs alone."""
    kept = [*ledger.claims, claim][-KEPT_KEYS:]
    text = _CLAIMS.dump_json(kept).decode()
    change: kube.Object = {"metadata": {"annotations": {contract.ANNOTATION_EVENT_KEYS: text}}}
    if cool_seconds > 0:
        time = tekton.micro_time(now)
        change["spec"] = {
            "holderIdentity": run, "acquireTime": time, "renewTime": time, "leaseDurationSeconds": cool_seconds
        }  # fmt: skip
    return change
