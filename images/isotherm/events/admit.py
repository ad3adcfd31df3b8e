"""Admit the run of an event, once: claim the event's key and the model's cool-down in one compare-and-set write.

Reads   EVENT_KEY (empty for a run started by hand), MODEL_NAME, COOL_DOWN_MINUTES, PIPELINE_RUN, PIPELINE_RUN_UID;
        Lease `isotherm-MODEL`
Writes  that Lease: the key among the done ones and, with COOL_DOWN_MINUTES above 0, the cool-down; admit.json in
        REPORTS_DIR
Results admitted (true, false), reason (claimed, claimed-before, by-hand, done, cooling-down until T)

A key is done from the moment it is claimed, whatever becomes of the run: a training that failed is started again by a
person, not by the event's second delivery. A run that meets a cool-down claims nothing, so an alert that still fires
when the cool-down ends gets another run from the reconciler. COOL_DOWN_MINUTES 0 neither waits for a cool-down nor
begins one (deployments, and data pushes, which nothing would repeat).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from isotherm import contract, kube, tekton
from isotherm.events import claims, keys

DEADLINE_SECONDS = 60.0
MAX_COOL_DOWN_MINUTES = 60 * 24 * 366
PAUSE_SECONDS = 0.5  # the longest of the pauses between two tries


@dataclass(frozen=True)
class Request:
    """What a run asks for. Raises `tekton.BadInput` on names that no event makes."""

    key: str
    model: str
    cool_seconds: int
    run: str
    uid: str

    def __post_init__(self) -> None:
        keys.check("param model-name", self.model, keys.MODEL)
        if self.key:
            keys.check("param event-key", self.key, keys.KEY)
        if not self.uid or not self.run:
            raise tekton.BadInput("the PipelineRun has no name or no uid", remedy="pass $(context.pipelineRun.uid)")
        if not 0 <= self.cool_seconds <= MAX_COOL_DOWN_MINUTES * 60:
            raise tekton.BadInput(
                f"param cool-down-minutes is {self.cool_seconds // 60}", remedy=f"give 0 to {MAX_COOL_DOWN_MINUTES}"
            )


@dataclass(frozen=True)
class Verdict:
    """Whether a run may go on, and why."""

    admitted: bool
    reason: str


def judge(ledger: claims.Ledger, request: Request, now: datetime) -> Verdict:
    """Decide by what the Lease says; `claimed` is the one verdict that has to be written."""
    claim = ledger.of(request.key)
    if claim is not None:
        mine = claim.uid == request.uid
        return Verdict(mine, "claimed-before" if mine else "done")
    until = ledger.cooling(now) if request.cool_seconds > 0 else None
    if until is not None:
        return Verdict(False, f"cooling-down until {tekton.rfc3339(until)}")
    return Verdict(True, "claimed")


def admit(
    cluster: kube.Cluster,
    request: Request,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Verdict:
    """Judge and claim; where another run was faster, look again.

    Raises `tekton.Unavailable` when the Lease kept changing until the deadline.
    """
    if not request.key:
        return Verdict(True, "by-hand")
    deadline = time.monotonic() + deadline_seconds
    while True:
        moment = now()
        stored = cluster.get(kube.LEASE, contract.model_lease(request.model))
        ledger = claims.read(stored)
        verdict = judge(ledger, request, moment)
        if verdict.reason != "claimed":
            return verdict
        try:
            _write(cluster, request, stored, ledger, moment)
            return verdict
        except kube.Conflict as error:
            if time.monotonic() > deadline:
                raise tekton.Unavailable(
                    f"Lease {contract.model_lease(request.model)} kept changing for {deadline_seconds:.0f} s",
                    remedy="run again; nothing was claimed",
                ) from error
            time.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 (jitter, no secret)


def _write(
    cluster: kube.Cluster, request: Request, stored: kube.Object | None, ledger: claims.Ledger, now: datetime
) -> None:
    claim = claims.Claim(key=request.key, uid=request.uid, at=tekton.rfc3339(now))
    change = claims.claimed(ledger, claim, request.run, request.cool_seconds, now)
    name = contract.model_lease(request.model)
    if stored is not None:
        cluster.patch(kube.LEASE, name, change, stored["metadata"]["resourceVersion"])
        return
    labels = {contract.LABEL_PART_OF: contract.PART_OF, contract.LABEL_MODEL: request.model}
    metadata = {**change["metadata"], "name": name, "labels": labels}
    body = {"apiVersion": kube.LEASE.api_version, "kind": kube.LEASE.name, "spec": {}, **change, "metadata": metadata}
    cluster.create(kube.LEASE, body)


def run() -> None:
    """Admit or not, and leave report and results; neither is a failure."""
    with tekton.results(admitted="false", reason="") as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_ADMIT, "event-admit") as report:
            env = tekton.environment(
                event_key=str, model_name=str, cool_down_minutes=int, pipeline_run=str, pipeline_run_uid=str
            )
            report.update(event_key=env.event_key, model_name=env.model_name, admitted=False, reason="")
            request = Request(
                env.event_key, env.model_name, env.cool_down_minutes * 60, env.pipeline_run, env.pipeline_run_uid
            )
            verdict = admit(kube.Cluster.from_config(), request)
            report.update(admitted=verdict.admitted, reason=verdict.reason)
        results.admitted, results.reason = str(verdict.admitted).lower(), verdict.reason
        print(f"{env.event_key or 'run by hand'}: {'admitted' if verdict.admitted else 'not admitted'} "
              f"({verdict.reason})", flush=True)  # fmt: skip


def main() -> int:
    """Run as the Task event-admit does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
