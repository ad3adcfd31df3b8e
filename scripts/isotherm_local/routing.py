"""The router's controller: brings HAProxy to what the API says and tells every Route whether it is carried.

`RouterController` is the loop; where objects come from and where answers go is its subclasses' business: `StoreRouter`
here, over the embedded API's store, and tests/lab/router.py over a real API server's watches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from isotherm import tekton
from isotherm_local import admission
from isotherm_local.haproxy import HAProxy, program
from isotherm_local.kinds import ENDPOINT_SLICE, ROUTE, SERVICE, Kind, Object
from isotherm_local.store import Store
from isotherm_local.translation import Listeners, Snapshot, render, translate

if TYPE_CHECKING:
    from isotherm_local.supervisor import Children, Settings

LOOK_SECONDS = 0.25
log = logging.getLogger("isotherm_local")


class RouterController:
    """Applies changes at most every `reload_seconds`; what changes meanwhile is part of the next reload."""

    def __init__(self, haproxy: HAProxy, reload_seconds: float, domain: str = admission.DOMAIN) -> None:
        self.haproxy, self.reload_seconds, self.domain = haproxy, reload_seconds, domain
        self.applied = ""  # the generation that HAProxy was last seen to run
        self.started, self.next_reload = False, 0.0
        self.changed = asyncio.Event()
        self.changed.set()

    def snapshot(self) -> Snapshot | None:
        """Return what the API holds; None while that is not known yet."""
        raise NotImplementedError

    async def write_ingress(self, route: Object, entries: list[Object]) -> None:
        """Replace `status.ingress` of a Route."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Tell whether HAProxy runs a configuration of ours."""
        return bool(self.applied) and self.haproxy.alive()

    async def apply(self, snapshot: Snapshot) -> None:
        """Make HAProxy run what the Routes ask for; does nothing where it does already."""
        configuration = render(translate(snapshot), self.haproxy.listeners)
        if configuration.generation == self.applied and self.haproxy.running():
            return
        if not self.haproxy.running():
            self.applied = ""
        await self.haproxy.load(configuration)
        self.applied, self.started = configuration.generation, True
        self.next_reload = time.monotonic() + self.reload_seconds
        log.info("router: configuration %s, %d routes", self.applied, configuration.text.count("\nbackend be_"))

    async def admit(self, snapshot: Snapshot) -> None:
        """Tell every Route whether it is carried, where its status does not say so yet."""
        verdicts = admission.decide(snapshot.routes)
        now = tekton.rfc3339(tekton.utcnow())
        for route in snapshot.routes:
            entries = admission.ingress(route, verdicts[route["metadata"]["uid"]], now, self.domain)
            if entries != (route.get("status") or {}).get("ingress"):
                await self.write_ingress(route, entries)

    async def reconcile(self, snapshot: Snapshot) -> None:
        """Do one pass."""
        await self.apply(snapshot)
        await self.admit(snapshot)

    async def _change(self) -> bool:
        """Wait a moment for a change; tells whether there is one."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self.changed.wait()
        except TimeoutError:
            return False

    async def _due(self) -> None:
        """Return when there is something to do: a change, once the last reload is old enough, or HAProxy has ended."""
        while self.haproxy.running():
            pause = self.next_reload - time.monotonic()
            if pause > 0:
                await asyncio.sleep(min(pause, LOOK_SECONDS))
            elif await self._change():
                return

    async def run(self) -> None:
        """Follow changes for ever; a failure is logged and tried again after a second."""
        while True:
            await self._due()
            self.changed.clear()
            snapshot = self.snapshot()
            if snapshot is None:
                await self._change()
                continue
            try:
                await self.reconcile(snapshot)
            except (tekton.TaskError, OSError) as error:
                if not self.started:
                    raise  # never ran: a port, a file or a program is wrong, and waiting does not mend it
                log.error("router: %s", error)
                await asyncio.sleep(1.0)
                self.changed.set()
            await asyncio.sleep(0.02)


class StoreRouter(RouterController):
    """The local target's router, over the embedded API's store."""

    def __init__(self, store: Store, settings: Settings, children: Children) -> None:
        listeners = Listeners(settings.router_port, idle_connections=settings.idle_connections)
        super().__init__(HAProxy(settings.state / "router", listeners, children, program()), settings.reload_seconds)
        self.store = store
        store.subscribers.append(self._notice)

    def _notice(self, kind: Kind, _: Object) -> None:
        if kind in (ROUTE, SERVICE, ENDPOINT_SLICE):
            self.changed.set()

    def snapshot(self) -> Snapshot:
        """Return the store's objects."""
        return Snapshot(self.store.list(ROUTE), self.store.list(SERVICE), self.store.list(ENDPOINT_SLICE))

    async def write_ingress(self, route: Object, entries: list[Object]) -> None:
        """Set the status in the store."""
        metadata = route["metadata"]
        self.store.set_status(ROUTE, metadata["namespace"], metadata["name"], {"ingress": entries})
