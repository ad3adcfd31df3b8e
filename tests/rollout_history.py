"""What must never have happened to a Route, checked on everything that was written to it.

`Recorder` keeps what this process read and wrote, drivers, guards and persons alike; `violations` judges the versions
of one Route in their order, `unfounded` whether the decision logs of a canary bear its steps out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isotherm import contract, kube
from isotherm.deploy import routes, shifts
from isotherm.rollout import decisions
from isotherm.rollout.judge import Verdict


@dataclass(frozen=True)
class Version(routes.Route):
    """A Route at one resourceVersion; `both`: both colours are among its backends, perhaps one with weight 0."""

    both: bool


def parse(stored: kube.Object, services: routes.Services) -> Version:
    """Read a Route as `routes.parse` does. Who owns it does not matter to its history."""
    plain = {**stored, "metadata": {**stored["metadata"], "ownerReferences": []}}
    return Version(**vars(routes.parse(plain, services)), both=bool(stored["spec"].get("alternateBackends")))


class Recorder:
    """Every version of a Route that an answer of the API to this process held, within the block."""

    def __init__(self, name: str, services: routes.Services) -> None:
        self._name, self._services = name, services
        self._lock = threading.Lock()
        self._seen: dict[int, Version] = {}
        self._original: Callable[..., Any] = kube._translated

    def __enter__(self) -> Recorder:
        kube._translated = self._translated
        return self

    def __exit__(self, *_: object) -> None:
        kube._translated = self._original

    def _translated(self, verb: str, kind: kube.Kind, name: str, namespace: str, call: Callable[[], Any]) -> Any:
        answer = self._original(verb, kind, name, namespace, call)
        if kind is kube.ROUTE and name == self._name and verb in ("get", "patch"):
            with self._lock:
                self._seen[int(answer["metadata"]["resourceVersion"])] = parse(answer, self._services)
        return answer

    def since(self, version: str) -> list[Version]:
        """The versions from this one on, in order."""
        with self._lock:
            return [route for number, route in sorted(self._seen.items()) if number >= int(version)]


def violations(
    seen: Sequence[Version],
    plans: dict[str, Sequence[int]] | None = None,
    rollbacks: Collection[str] = (),
) -> list[str]:
    """Say what is wrong with a history. `plans` has by holder the weights that its shift may give its target;
    `rollbacks` are the holders that go back: theirs stands at once, as what it leaves is the model in doubt.

    A change of weights without one of the token is somebody else's, who may do anything.
    """
    return [problem for before, after in pairwise(seen) for problem in _step(before, after, plans or {}, rollbacks)]


def _step(before: Version, after: Version, plans: dict[str, Sequence[int]], rollbacks: Collection[str]) -> list[str]:
    where = f"{before.resource_version} -> {after.resource_version}"
    moved = f"{routes.describe(before.weights)} -> {routes.describe(after.weights)}"
    found = []
    if after.token < before.token:
        found.append(f"{where}: the token fell from {before.token} to {after.token}")
    changed = dict(before.weights) != dict(after.weights)
    if after.token == before.token:
        # A heartbeat, a confirmation, or a person: none of them touches who wrote the weights, and which.
        noted = contract.ANNOTATION_SHIFT_HOLDER, contract.ANNOTATION_SHIFT_WEIGHTS
        if any(before.annotations.get(note) != after.annotations.get(note) for note in noted):
            found.append(f"{where}: {after.holder or '(nobody)'} moved {moved} with token {after.token}, used before")
        return found
    if after.token > before.token + 1:
        found.append(f"{where}: two writes for one token, {before.token} to {after.token}")
    if sum(after.weights.values()) != 100:
        found.append(f"{where}: weights {moved} do not share 100")
    if after.annotations.get(contract.ANNOTATION_SHIFT_WEIGHTS) != routes.describe(after.weights):
        found.append(f"{where}: the noted weights are not those of the same write")
    back = before.stable is not None and after.weights.get(before.stable) == 100
    if before.shifting and not before.foreign and after.holder != before.holder and not back:
        found.append(f"{where}: {after.holder or '(nobody)'} moved {moved} while {before.holder} was shifting")
    if changed and back and before.split and after.both:
        found.append(f"{where}: {moved} leaves both backends, and one of weight 0 keeps its connections")
    if after.holder in rollbacks and after.live is None:
        found.append(f"{where}: {after.holder} moved {moved}, and a rollback moves everything")
    if changed and not back and after.expires is None and after.holder not in rollbacks and not _first_shares(before):
        found.append(f"{where}: {moved} by {after.holder} stands without an expiry")
    if after.holder == shifts.GUARD and not back:
        found.append(f"{where}: the guard moved {moved}, not back")
    if after.holder in plans and not back:
        target = routes.other(before.stable) if before.stable else ""
        if after.weights.get(target, 0) not in plans[after.holder]:
            found.append(f"{where}: {moved} is no step of {after.holder}")
    return found


def unfounded(seen: Sequence[Version], holder: str, logs: Path) -> list[str]:
    """Say which weights of a canary rose although the step before, by its own log judged again, was not to be promoted.

    `logs` is the folder of the run's decision logs, one for each step.
    """
    found = []
    for before, after in pairwise(seen):
        target = routes.other(before.stable) if before.split and before.stable else ""
        if not target or after.holder != holder or after.weights[target] <= before.weights[target]:
            continue
        log = logs / f"{before.weights[target]:03}.jsonl"
        where = f"{before.resource_version} -> {after.resource_version}: {target} rose to {after.weights[target]} %"
        try:
            verdicts = list(decisions.replay(log.read_text().splitlines()))
        except (OSError, decisions.WrongLog) as error:
            found.append(f"{where}, but {log.name}: {error}")
            continue
        if verdicts[-1:] != [Verdict.PROMOTE]:
            found.append(f"{where}, but {log.name} ends with {verdicts[-1:]}")
    return found


def _first_shares(route: Version) -> bool:
    """Whether nothing is known of who was live: no colour had all traffic, and none is noted."""
    return route.stable is None
