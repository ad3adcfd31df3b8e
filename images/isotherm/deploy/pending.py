"""A shift that is not confirmed yet: kept alive by moving its expiry on, ended by a confirmation.

Reads and writes  the Route's expiry, by compare-and-set
"""

from __future__ import annotations

import time
from collections.abc import Callable

from isotherm import contract, kube
from isotherm.deploy import routes, shifts

ATTEMPTS = 5


class Interfered(Exception):
    """Somebody else has changed the Route while a shift was pending: a person, the guard, another run."""

    def __init__(self, route: routes.Route) -> None:
        super().__init__(f"{_who(route)} set {routes.describe(route.weights)} before the shift was confirmed")
        self.route = route


def _who(route: routes.Route) -> str:
    if route.foreign:
        return "somebody"
    return "the guard" if route.holder == shifts.GUARD else f"PipelineRun {route.holder}"


class Pending:
    """The Route as this shift wrote it last. Called again and again, it moves the expiry on each third of its time.

    A Route on which nothing is pending (a rollback's) is left alone.
    """

    def __init__(self, found: routes.Driver, route: routes.Route, seconds: float, expiry: Callable[[], str]) -> None:
        self._routes = found
        self._seconds = seconds
        self._expiry = expiry
        self._last = time.monotonic()
        self.route = route

    def __call__(self) -> None:
        """Move the expiry on where it is time to. Raises `Interfered`."""
        if self._pending and time.monotonic() - self._last >= self._seconds / 3:
            self._write({contract.ANNOTATION_SHIFT_EXPIRES: self._expiry()})
            self._last = time.monotonic()

    def look(self) -> None:
        """See whether the Route still is as this shift wrote it. Raises `Interfered`."""
        newer = self._routes.require(self.route.name)
        if shifts.interfered(self.route, newer):
            raise Interfered(newer)

    def confirm(self) -> None:
        """End the shift well. Raises `Interfered`."""
        if self._pending:
            self._write(shifts.confirm())

    @property
    def _pending(self) -> bool:
        return self.route.expires is not None

    def _write(self, notes: shifts.Notes) -> None:
        for _ in range(ATTEMPTS):
            try:
                self.route = self._routes.write(self.route, self.route.weights, notes)
                return
            except kube.Conflict:
                newer = self._routes.require(self.route.name)
                if shifts.interfered(self.route, newer):
                    raise Interfered(newer) from None
                self.route = newer
        raise kube.Conflict(f"{self.route} kept changing", remedy="run the pipeline rollback")
