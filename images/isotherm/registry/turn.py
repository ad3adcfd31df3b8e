"""One writer of a model's registry entries at a time, by Lease `isotherm-registry-MODEL`.

MLflow has no compare-and-set: what is searched before a create, or compared before an alias moves, holds only while
nobody else writes. Every writer of the catalog takes the Lease first; its own compare-and-set is the API server's.

Reads   that Lease
Writes  holderIdentity, acquireTime, renewTime, leaseDurationSeconds and leaseTransitions of its spec
Errors  `tekton.Unavailable` when it is not free until the deadline, or was lost before a write
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from isotherm import contract, kube, tekton

LEASE_SECONDS = 60.0  # after which a holder that does not renew is passed over
WAIT_SECONDS = 300.0
POLL_SECONDS = 1.0


@dataclass
class Turn:
    """A writer's hold of the Lease; another thread renews it, three times in its duration."""

    cluster: kube.Cluster
    name: str
    model: str
    holder: str
    seconds: float
    renewed: float = 0.0  # monotonic time before the write that renewed it

    def check(self) -> None:
        """Raise `tekton.Unavailable` when the Lease may have passed to another writer; called before each write.

        A request that is on its way when the Lease passes is not stopped by it, hence the margin of a third.
        """
        if time.monotonic() - self.renewed > self.seconds * 2 / 3:
            raise tekton.Unavailable(
                f"Lease {self.name} could not be renewed for {self.seconds * 2 / 3:.0f} s: others may write by now",
                remedy="run again when the Kubernetes API answers; what was written stands and is found again",
            )

    def take(self, wait_seconds: float) -> None:
        """Wait until the Lease is free, or its holder has not renewed it for its whole duration, and take it.

        The duration is measured on this machine's clock from the last change that was seen, as client-go's leader
        election does: clocks of two nodes need not agree.
        """
        deadline, seen, since = time.monotonic() + wait_seconds, None, time.monotonic()
        while True:
            began = time.monotonic()
            stored = self.cluster.get(kube.LEASE, self.name)
            spec = (stored or {}).get("spec") or {}
            owner = spec.get("holderIdentity") or ""
            version = stored["metadata"]["resourceVersion"] if stored else None
            if version != seen:
                if owner:
                    print(f"waiting for {owner}, which writes to the registry of {self.model}", flush=True)
                seen, since = version, began
            duration = float(spec.get("leaseDurationSeconds") or 0)
            if not owner or began - since > duration:
                with suppress(kube.Conflict):
                    self._write(stored, spec, acquired=True)
                    self.renewed = began
                    return
            if time.monotonic() > deadline:
                raise tekton.Unavailable(
                    f"{owner or 'another writer'} has held Lease {self.name} for {wait_seconds:.0f} s",
                    remedy="run again when that run has ended; nothing was written",
                )
            time.sleep(random.uniform(0.5, 1.0) * POLL_SECONDS)  # noqa: S311 (jitter, no secret)

    def renew(self, ended: threading.Event) -> None:
        """Renew until `ended`; a Lease that another one holds by now is left alone."""
        while not ended.wait(self.seconds / 3):
            began = time.monotonic()
            with suppress(tekton.Unavailable, kube.Conflict):
                stored = self.cluster.get(kube.LEASE, self.name)
                spec = (stored or {}).get("spec") or {}
                if stored is None or spec.get("holderIdentity") != self.holder:
                    return
                self._write(stored, spec, acquired=False)
                self.renewed = began

    def release(self) -> None:
        """Leave the Lease to the next one, who else would wait for its end."""
        with suppress(tekton.TaskError):
            stored = self.cluster.get(kube.LEASE, self.name)
            if stored is not None and stored["spec"].get("holderIdentity") == self.holder:
                change = {"spec": {"holderIdentity": ""}}
                self.cluster.patch(kube.LEASE, self.name, change, stored["metadata"]["resourceVersion"])

    def _write(self, stored: kube.Object | None, spec: kube.Object, *, acquired: bool) -> None:
        now = tekton.micro_time(tekton.utcnow())
        wanted: dict[str, Any] = {
            "holderIdentity": self.holder, "renewTime": now, "leaseDurationSeconds": round(self.seconds)
        }  # fmt: skip
        if acquired:
            wanted |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        if stored is not None:
            self.cluster.patch(kube.LEASE, self.name, {"spec": wanted}, stored["metadata"]["resourceVersion"])
            return
        labels = {contract.LABEL_PART_OF: contract.PART_OF}
        body = {
            "apiVersion": kube.LEASE.api_version, "kind": kube.LEASE.name, "spec": wanted,
            "metadata": {"name": self.name, "labels": labels},
        }  # fmt: skip
        self.cluster.create(kube.LEASE, body)


@contextmanager
def held(
    cluster: kube.Cluster,
    model_name: str,
    holder: str,
    *,
    seconds: float = LEASE_SECONDS,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[Callable[[], None]]:
    """Hold the Lease of a model's registry; gives a function to call before each write (`Turn.check`)."""
    turn = Turn(cluster, contract.registry_lease(model_name), model_name, holder, seconds)
    turn.take(wait_seconds)
    ended = threading.Event()
    thread = threading.Thread(target=turn.renew, args=(ended,), name="registry-lease", daemon=True)
    thread.start()
    try:
        yield turn.check
    finally:
        # A renewal on its way would make the release lose its compare-and-set, and the next writer wait for nothing.
        ended.set()
        thread.join(5)
        turn.release()
