"""How a shift of driver isvc ends: the predictor takes the new model over, and the canary goes.

Reads   InferenceService, both Deployments and their endpoints, the Route in front
Writes  the InferenceService, by compare-and-set: spec.predictor, trafficPercent, and the removal of the canary

The predictor is rewritten while the canary has all traffic, never while clients are sent to it. KServe ends a canary's
pods at once when its entry goes: so it first loses its traffic, then the router gets time to hear of it. Each step can
be repeated: a run that starts again goes on from whatever it finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from isotherm import contract, kube, tekton
from isotherm.deploy import readiness, routes, shifts
from isotherm.deploy.pending import ATTEMPTS, Interfered
from isotherm.deploy.splits import BLUE, GREEN, Split, Splits

SETTLE_SECONDS = 300.0  # how long the predictor may take to serve the new model
DRAIN_SECONDS = 10.0  # how long a router may take to hear of new weights (OpenShift's reloads every 5 s)
_OUT = ", its canary taken out"


class Settling:
    """Ends one shift. Whatever it raises, all traffic is where the shift has put it."""

    def __init__(self, splits: Splits, say: Callable[[str], None]) -> None:
        self._splits = splits
        self._say = say

    def settle(self, split: Split) -> Split:
        """Leave the predictor alone with the live model. Raises `Interfered` and `tekton.Unavailable`."""
        if split.live == GREEN:
            split = self._adopted(split)
            split = self._carry(split, self._back_to_predictor)
            self._say(f"{split}: {routes.describe(split.weights)}; waiting until the router has heard of it")
            self._followed(split)
        return self.dropped(split)

    def dropped(self, split: Split) -> Split:
        """Take a canary out that nobody is sent to any more. Raises `Interfered` and `tekton.Unavailable`."""
        if split.canary is None or split.live != BLUE:
            return split
        if not self._splits.droppable(split):
            raise tekton.Unavailable(
                f"the Route in front of {split} still sends everything to the canary",
                remedy="look at the controller that follows spec.canary, then run again",
            )
        after = self._carry(split, self._splits.drop)
        self._say(f"{after}: the canary is out")
        return after

    def _adopted(self, split: Split) -> Split:
        held = split.colours
        if held[BLUE].digest != held[GREEN].digest:
            self._say(f"{split}: the predictor takes model {held[GREEN].digest[:12]} over while the canary serves")
            split = self._carry(split, self._splits.adopt)
        blue = split.colours[BLUE]

        def beat() -> None:
            newer = self._splits.require(split.name)
            if _changed(split, newer):
                raise Interfered(newer)

        readiness.wait(
            self._splits.cluster, split.name, self._splits.services[BLUE], blue.digest, blue.claimed_by,
            SETTLE_SECONDS, self._say, workload=blue.deployment, beat=beat,
        )  # fmt: skip
        return split

    def _back_to_predictor(self, split: Split) -> Split:
        weights = {BLUE: 100, GREEN: 0}
        notes: shifts.Notes = {
            contract.ANNOTATION_SHIFT_TOKEN: str(split.token + 1),
            contract.ANNOTATION_SHIFT_WEIGHTS: routes.describe(weights),
            contract.ANNOTATION_PREVIOUS: None,
        }
        return self._splits.write(split, weights, notes)

    def _followed(self, split: Split) -> None:
        """Wait until the Route in front says so, and its router has reloaded: both pods answer alike by now."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self._splits.follows(split):
            if time.monotonic() >= deadline:
                raise tekton.Unavailable(
                    f"the Route in front of {split} does not follow spec.canary",
                    remedy="look at the controller that should follow it, then run again",
                )
            time.sleep(readiness.POLL_SECONDS)
        time.sleep(DRAIN_SECONDS)

    def _carry(self, split: Split, act: Callable[[Split], Split]) -> Split:
        """Do one write; after a conflict that changed nothing of ours, again. Raises `Interfered`."""
        for _ in range(ATTEMPTS):
            try:
                return act(split)
            except kube.Conflict:
                newer = self._splits.require(split.name)
                if _changed(split, newer):
                    raise Interfered(newer) from None
                split = newer
        raise kube.Conflict(f"{split} kept changing", remedy="run again")


def _changed(split: Split, newer: Split) -> bool:
    return shifts.interfered(split, newer) or split.colours != newer.colours


def end_rejected(splits: Splits, split: Split, now: datetime) -> bool:
    """Take a canary out whose shift the guard took back long enough ago; tell whether it did.

    Raises `kube.Conflict` where somebody was faster.
    """
    ended = split.annotations.get(contract.ANNOTATION_SHIFT_ENDED, "")
    rejected = split.annotations.get(contract.ANNOTATION_REJECTED_DIGEST)
    left = split.canary is not None and split.colours[GREEN].digest == rejected
    if split.holder != shifts.GUARD or split.live != BLUE or not left or not ended or ended.endswith(_OUT):
        return False  # the last: the same model may be tried again
    since = datetime.fromisoformat(ended.partition(" ")[0])
    if now < since + timedelta(seconds=DRAIN_SECONDS) or not splits.droppable(split):
        return False
    splits.drop(split, {contract.ANNOTATION_SHIFT_ENDED: ended + _OUT})
    return True
