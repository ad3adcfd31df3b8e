"""Decisions of a traffic shift: where it goes, what is written, when another writer stands in the way. Pure functions.

Inputs: a Route as it was read, and what each colour holds. Outputs: weights that sum to 100 and the notes of the same
write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from isotherm import contract, tekton
from isotherm.deploy.routes import Route, Weights, describe, other

PREVIOUS = "previous"
Notes = Mapping[str, str | None]  # annotation -> value; None deletes it
_OWN_NOTES = (
    contract.ANNOTATION_SHIFT_HOLDER,
    contract.ANNOTATION_SHIFT_TOKEN,
    contract.ANNOTATION_LIVE_DIGEST,
    contract.ANNOTATION_LIVE_SINCE,
    contract.ANNOTATION_PREVIOUS,
    contract.ANNOTATION_PREVIOUS_DIGEST,
    contract.ANNOTATION_SHIFT_EXPIRES,
    contract.ANNOTATION_CANDIDATE_DIGEST,
    contract.ANNOTATION_SHIFT_ENDED,
)
GUARD = "guard"  # holder of what the guard writes


@dataclass(frozen=True)
class Plan:
    """What one shift writes."""

    target: str
    before: Weights
    after: Weights
    annotations: Notes

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return dict(self.before) != dict(self.after)

    @property
    def back(self) -> bool:
        """Whether it ends a shift: everything to one colour, and nothing pending."""
        return 100 in self.after.values() and self.annotations.get(contract.ANNOTATION_SHIFT_EXPIRES) is None


def target(route: Route, colour: str, holder: str) -> str:
    """Turn `previous` into the colour to go back to: the one without traffic, or, within a split, the stable one.

    A rollback that this run has done already stays done: its repetition must not move traffic forth again. Raises
    `tekton.Refused` where neither the weights nor the Route's notes tell, and where no colour has traffic: only a
    rollback ends that.
    """
    noted = route.annotations.get(contract.ANNOTATION_PREVIOUS, "")
    if colour != PREVIOUS:
        if route.live or route.split:
            return colour
        raise _unclear(route, "sends no traffic at all")
    if route.live:
        return route.live if route.holder == holder else other(route.live)
    if noted in contract.COLOURS:
        return noted
    larger = max(route.weights, key=lambda name: route.weights[name])
    if route.weights[larger] > route.weights[other(larger)]:
        return larger
    raise _unclear(route, "has no note of the colour that was live before")


def _unclear(route: Route, what: str) -> tekton.Refused:
    return tekton.Refused(
        f"{route} {what} ({describe(route.weights)})",
        remedy=f"say which colour is live, for example: oc set route-backends {route.name} blue=100 green=0",
    )


def plan(
    route: Route, target: str, weight: int, digests: Mapping[str, str], holder: str, now: str, expires: str = ""
) -> Plan:
    """Plan to give `weight` percent to `target` and the rest to the other colour, pending until `expires` (empty: not).

    The live colour stays the stable one until the target has everything; only then do the notes of the live and the
    previous model change. Raises `tekton.Refused` while another run shifts, and where no colour has traffic: neither
    holds for a move of everything back to the stable colour, which is always allowed and never pending.
    """
    after = {target: weight, other(target): 100 - weight}
    stable = route.stable
    before = _shares(route)
    back = weight == 100 and target == stable
    if route.shifting and route.holder != holder and not back:
        raise tekton.Refused(
            f"{route} is being shifted ({describe(route.weights)}) by PipelineRun {route.holder or '(unknown)'}",
            remedy="wait for that run, or end its shift with the pipeline rollback",
        )
    notes: dict[str, str | None] = {
        contract.ANNOTATION_SHIFT_HOLDER: holder,
        contract.ANNOTATION_SHIFT_TOKEN: str(route.token + 1),
        contract.ANNOTATION_SHIFT_WEIGHTS: describe(after),
        contract.ANNOTATION_SHIFT_EXPIRES: None if back else expires or None,
        contract.ANNOTATION_CANDIDATE_DIGEST: digests[target] if expires and not back else None,
        contract.ANNOTATION_SHIFT_ENDED: None,
    }
    if route.annotations.get(contract.ANNOTATION_REJECTED_DIGEST) == digests[target]:
        notes[contract.ANNOTATION_REJECTED_DIGEST] = None
    live = next((colour for colour, share in after.items() if share == 100), stable)
    if back and route.live != stable:
        notes |= {contract.ANNOTATION_LIVE_DIGEST: digests[target], contract.ANNOTATION_LIVE_SINCE: now}
    if live is not None and live != stable:
        notes |= {
            contract.ANNOTATION_LIVE_DIGEST: digests[live],
            contract.ANNOTATION_LIVE_SINCE: now,
            contract.ANNOTATION_PREVIOUS: stable,
            contract.ANNOTATION_PREVIOUS_DIGEST: digests[stable] if stable else None,
        }
    elif live is not None and after[live] != 100:
        notes |= {contract.ANNOTATION_PREVIOUS: live, contract.ANNOTATION_PREVIOUS_DIGEST: digests[live]}
    return Plan(target, before, after, notes)


def _shares(route: Route) -> Weights:
    """A Route's weights: `oc set route-backends blue=1` means the same as blue=100 where blue is alone."""
    return {route.live: 100, other(route.live): 0} if route.live else dict(route.weights)


def undo(before: Route, written: Route) -> Notes:
    """Notes that take a shift back: the former ones, and a token that has risen once more, so that it fences older
    writers.
    """
    notes: dict[str, str | None] = {name: before.annotations.get(name) for name in _OWN_NOTES}
    notes[contract.ANNOTATION_SHIFT_TOKEN] = str(written.token + 1)
    return notes | _rejection(_shares(before), written)


def confirm() -> Notes:
    """Notes that end a shift well: it is no longer pending, and nothing takes it back but a rollback."""
    return {contract.ANNOTATION_SHIFT_EXPIRES: None, contract.ANNOTATION_CANDIDATE_DIGEST: None}


def expired(route: Route, now: datetime) -> bool:
    """Whether a pending shift has not been carried on in time."""
    return route.expires is not None and now >= route.expires


def take_back(route: Route, now: str, holder: str = GUARD, why: str = "expired") -> tuple[Weights, Notes]:
    """Weights and notes that end a shift, by the guard once it expired: everything to the colour that was live before.

    It needs the Route alone. Raises `tekton.Refused` where the Route has no note of that colour.
    """
    stable = route.annotations.get(contract.ANNOTATION_PREVIOUS, "")
    if stable not in contract.COLOURS:
        raise _unclear(route, "has no note of the colour that was live before")
    weights = {stable: 100, other(stable): 0}
    notes: dict[str, str | None] = {
        **confirm(),
        contract.ANNOTATION_SHIFT_HOLDER: holder,
        contract.ANNOTATION_SHIFT_TOKEN: str(route.token + 1),
        contract.ANNOTATION_SHIFT_ENDED: f"{now} {why}, held by {route.holder or '(unknown)'} with "
        f"{describe(route.weights)}",
        contract.ANNOTATION_PREVIOUS: None,
        contract.ANNOTATION_PREVIOUS_DIGEST: None,
    }
    if route.live == other(stable):
        former = route.annotations.get(contract.ANNOTATION_PREVIOUS_DIGEST)
        notes |= {contract.ANNOTATION_LIVE_DIGEST: former, contract.ANNOTATION_LIVE_SINCE: now}
    return weights, notes | _rejection(weights, route)


def _rejection(weights: Weights, written: Route) -> dict[str, str | None]:
    """Notes of weights that take a shift back: what they are, and the model that was tried."""
    candidate = written.annotations.get(contract.ANNOTATION_CANDIDATE_DIGEST)
    return {
        contract.ANNOTATION_SHIFT_WEIGHTS: describe(weights),
        contract.ANNOTATION_REJECTED_DIGEST: candidate or written.annotations.get(contract.ANNOTATION_REJECTED_DIGEST),
    }


def interfered(planned: Route, newer: Route) -> bool:
    """Whether a Route that changed since it was planned carries other weights or another shift's token.

    A router's note in `status` changes the resourceVersion too, and does not stand in the way.
    """
    return dict(planned.weights) != dict(newer.weights) or (planned.token, planned.holder) != (
        newer.token,
        newer.holder,
    )


def registry_version(semver: str) -> str:
    """Registry version of a semantic version: `1.7.0` is version 7; empty where it is not of that form."""
    match = re.fullmatch(r"1\.([1-9][0-9]*)\.0", semver)
    return match[1] if match else ""
