"""Take back every shift that nobody carries on: the dead man's switch of route-shift (Deployment route-guard).

Reads   GUARDED_* (each a ROUTE=SERVICE_BLUE,SERVICE_GREEN: a Route and the Services of its colours; or an isvc:NAME, an
        InferenceService of driver isvc), POLL_SECONDS; each one's expiry
Writes  the Route: everything to the colour that was live before, the other one taken out; a Kubernetes Event. Of an
        InferenceService the canary gets no traffic at once, and is taken out when its router has had time to hear of it
Exit    on SIGTERM only. An API that does not answer, a Route that cannot be read: told once, tried again at every poll

It needs the API server and nothing else: no registry, no metrics, no git, no pipeline.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Mapping
from datetime import datetime

from isotherm import contract, kube, tekton
from isotherm.deploy import notices, routes, settle, shifts, splits

PREFIX = "GUARDED_"
SPLIT = f"{contract.DRIVER_ISVC}:"
_REMEDY = f"give ROUTE=SERVICE_BLUE,SERVICE_GREEN, or {SPLIT}NAME of an InferenceService"


def guarded(environment: Mapping[str, str]) -> dict[str, routes.Services]:
    """What an environment names: a Route with its Services; `isvc:NAME` with those of its predictors.

    Raises `tekton.BadInput` on a value that is neither.
    """
    found = {}
    for name, text in sorted(environment.items()):
        if name.startswith(PREFIX):
            route, _, services = text.replace(" ", "").partition("=")
            if route.startswith(SPLIT) and route != SPLIT and not services:
                found[route] = splits.services(route.removeprefix(SPLIT))
                continue
            blue, _, green = services.partition(",")
            if not (route and blue and green) or "," in green:
                raise tekton.BadInput(f"{name} is {text[:80]!r}", remedy=_REMEDY)
            found[route] = routes.pair(blue, green)
    if not found:
        raise tekton.BadInput(f"no variable {PREFIX}* names a Route", remedy=_REMEDY)
    return found


def _driver(cluster: kube.Cluster, name: str, services: routes.Services) -> routes.Driver:
    if name.startswith(SPLIT):
        return splits.Splits(cluster, name.removeprefix(SPLIT))
    return routes.Routes(cluster, services)


class Guard:
    """Looks at a set of Routes again and again."""

    def __init__(self, cluster: kube.Cluster, wanted: Mapping[str, routes.Services]) -> None:
        self._cluster = cluster
        self._routes = {name: _driver(cluster, name, services) for name, services in wanted.items()}
        self._said: dict[str, str] = {}

    def look(self, now: datetime) -> list[str]:
        """Look once at every Route; return the names of those whose shift was taken back."""
        return [name for name in self._routes if self._looked_at(name, now)]

    def _looked_at(self, name: str, now: datetime) -> bool:
        try:
            done = self._take_back(name, now)
        except Exception as error:
            # Whatever is the matter with one Route, the others are looked at, and the next poll tries it again.
            self._say_once(name, tekton.last_line(error))
            return False
        self._said.pop(name, None)
        return done

    def _take_back(self, name: str, now: datetime) -> bool:
        mine = self._routes[name]
        route = mine.get(name.removeprefix(SPLIT))
        if isinstance(mine, splits.Splits) and isinstance(route, splits.Split):
            settle.end_rejected(mine, route, now)
        if route is None or not shifts.expired(route, now):
            return False
        weights, notes = shifts.take_back(route, tekton.rfc3339(now))
        after = mine.write(route, weights, notes, alone=True)
        line = f"{after}: {notes[contract.ANNOTATION_SHIFT_ENDED]}; now {routes.describe(after.weights)}"
        tekton.say(line)
        notices.tell(self._cluster, after, notices.TAKEN_BACK, line, now, reporter="route-guard", say=tekton.say)
        return True

    def _say_once(self, name: str, line: str) -> None:
        if self._said.get(name) != line:
            self._said[name] = line
            tekton.say(f"{name if name.startswith(SPLIT) else f'Route {name}'}: {line}")


def run() -> None:
    """Guard until SIGTERM."""
    env = tekton.environment(poll_seconds=float)
    wanted = guarded(os.environ)
    guard = Guard(kube.Cluster.from_config(deadline_seconds=env.poll_seconds), wanted)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    tekton.say(f"guarding {', '.join(wanted)} every {env.poll_seconds:g} s")
    while not ended.wait(env.poll_seconds):
        guard.look(tekton.utcnow())


def main() -> int:
    """Run as the Deployment route-guard does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
