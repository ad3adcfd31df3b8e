"""Measure every bar of the events afresh on the lab and write build/bench/events.json.

Usage: PYTHONPATH=tests:scripts:images python tests/bench/bench_events.py [GROUP ...]
Groups: pushes alerts load bodies hostile hygiene offline

Runs are created pending, so that none trains. Faults: reliability.md's F10, F11, F12, F22, F30.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import event_stage
import httpx
from bars import ROOT, Bar, exactly, keep, log, report
from e2e import events as catalog_events
from e2e.cluster import Target
from e2e.events import SENDERS, Events, fresh
from event_stage import Sent, away, for_seconds, paced, post, refusing, settled
from hostile import FIELDS, VALUES
from lab import daemons, watching
from lab.part import Lab
from waiting import eventually

from isotherm import contract
from isotherm.events import keys
from isotherm_local.events import payloads

NAMESPACE = "bench-events"
PUSHES, PUSHES_PER_SECOND, AWAY_SECONDS = 1000, 4.0, 60.0
ALERTS = 200
RATES, STEP_SECONDS = (2, 5, 10, 20, 30, 40), 15
SLOWEST_SECONDS = 1.0
SIZES = (1 << 10, 64 << 10, 512 << 10, 1000 << 10, 5 << 20, 25 << 20, 100 << 20)


def pushes(space: Events) -> list[Bar]:
    """1,000 signed pushes, some twice, forged or replayed; the listener is away twice, the API refuses for a while."""
    origin = event_stage.branch(space.target, "bench-events", PUSHES)
    space.compare({"git": [catalog_events.watch(origin.url)]})
    space.reconcile("pushes-begin")
    sent = Sent()
    work = _pushed(space, origin, sent)
    faults = {
        len(work) // 8: lambda: for_seconds(away(space, "git"), AWAY_SECONDS),
        len(work) // 2: lambda: for_seconds(refusing(space), AWAY_SECONDS / 3),
        3 * len(work) // 4: lambda: for_seconds(away(space, "git"), AWAY_SECONDS),
    }
    threads: list[Any] = []
    for number, start in faults.items():
        work[number] = _also(work[number], lambda start=start: threads.append(start()))
    paced(work, PUSHES_PER_SECOND)
    for thread in threads:
        thread.join()
    before = set(settled(space))
    said = space.reconcile("pushes-end")
    after = settled(space)
    valid = {keys.data_push("measurements", sha) for sha in origin.commits}
    made = {name: run for name, run in after.items() if run["metadata"]["labels"][contract.LABEL_EVENT] == "git"}
    stood = Counter(run["metadata"]["annotations"][contract.ANNOTATION_REVISION] for run in made.values())
    lost, doubled = valid - set(made), {sha for sha, count in stood.items() if count > 1}
    forged = set(made) - valid
    table = {
        "answers": sent.count(), "before the reconciler": len(before & valid), "after": len(made),
        "lost": sorted(lost), "doubled": sorted(doubled), "forged": sorted(forged),
        "reconciler": said.splitlines()[-1:],
    }  # fmt: skip
    raw = keep("events-pushes", table)
    note = f"{len(valid) - len(before & valid)} were lost before the reconciler's pass"
    wrong = len(lost) + len(doubled) + len(forged)
    return [
        exactly("pushes that have their run", len(valid & set(made)), PUSHES, "runs", raw=raw, note=note),
        Bar("pushes lost, doubled, forged", wrong, "runs", "0", not wrong, len(work), raw),
    ]


def _pushed(space: Events, origin: event_stage.Branch, sent: Sent) -> list[Callable[[], None]]:
    """Every push once; 10 % of them twice, 5 % of them replayed byte for byte, and as many forged."""
    work: list[Callable[[], None]] = []
    url = space.url("github")
    for number, sha in enumerate(origin.commits):
        before = origin.commits[number - 1] if number else origin.base
        changes = [("after", sha), ("before", before)]
        signed = space.signed("github", changes)

        def first(signed: Any = signed, sha: str = sha) -> None:
            origin.move(sha)
            post(url, signed, sent)

        work.append(first)
        if number % 10 == 3:  # delivered a second time, with another delivery id
            again = space.signed("github", changes)
            work.append(partial(post, url, again, sent))
        if number % 20 == 7:
            work.append(partial(post, url, signed, sent))
        if number % 20 == 11:
            forged = space.signed("github", fresh("github"), secret=secrets.token_hex(16))
            work.append(partial(post, url, forged, sent))
    return work


def _also(work: Callable[[], None], beside: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        beside()
        work()

    return both


@contextmanager
def alertmanager(space: Events) -> Iterator[str]:
    """The lab's Alertmanager, which sends to the listener; gives its API."""
    lab = Lab()
    config = lab.folder("etc") / "alertmanager.yaml"
    former, process = config.read_text(), daemons.find(lab, "alertmanager")
    assert process is not None
    config.write_text(space.alertmanager(group_by=["alertname", "model", "case"], repeat_interval="30m"))
    process.signal(signal.SIGHUP)
    try:
        yield f"http://{watching.NODE_IP}:{watching.ALERTMANAGER_PORT}"
    finally:
        config.write_text(former)
        process.signal(signal.SIGHUP)


def alerts(space: Events) -> list[Bar]:
    """200 firings by a real Alertmanager with the listener away for their first minute, resolved ones, wrong tokens."""
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    def alert(case: str, **changes: str) -> dict[str, Any]:
        labels = {"alertname": "PinnDriftHigh", "model": "inverse-heat-pinn", "retrain": "true", "case": case}
        return {"labels": labels | changes, "endsAt": ends}

    before = set(space.runs())
    with alertmanager(space) as api:
        source = {"alertmanager-url": api, "template": "retrain", "models": ["inverse-heat-pinn"]}
        space.compare({"alerts": [source]})
        fault = for_seconds(away(space, "alerts"), AWAY_SECONDS)
        firing = [alert(f"{number}") for number in range(ALERTS)]
        others = [alert(f"no-{number}", retrain="false") for number in range(20)]
        others += [alert(f"other-{number}", model="another") for number in range(20)]
        httpx.post(f"{api}/api/v2/alerts", json=[*firing, *others], timeout=30).raise_for_status()
        fault.join()
        for _ in range(3):
            space.send("alertmanager", fresh("alertmanager"), secret=secrets.token_hex(16))
        early = set(settled(space, 180)) - before
        found = httpx.get(f"{api}/api/v2/alerts", params={"filter": 'retrain="true"'}, timeout=30).json()
        space.reconcile("alerts-end")
        made = set(settled(space)) - before
        gone = [{**alert(f"{number}"), "endsAt": datetime.now(UTC).isoformat()} for number in range(20)]
        httpx.post(f"{api}/api/v2/alerts", json=gone, timeout=30).raise_for_status()
        time.sleep(10)
        later = set(space.runs()) - before - made
    valid = {keys.alert(one["fingerprint"], one["startsAt"]) for one in found if one["labels"]["model"] != "another"}
    table = {"valid": len(valid), "by the listener": len(early & valid), "after the reconciler": len(made & valid),
             "others": sorted(made - valid), "after resolving": sorted(later)}  # fmt: skip
    raw = keep("events-alerts", table)
    note = f"away {AWAY_SECONDS:.0f} s, not 10 min; {len(early & valid)} runs came without the reconciler"
    wrong = len(made - valid) + len(later)
    return [
        exactly("firings that have their one run", len(made & valid), ALERTS, "runs", raw=raw, note=note),
        Bar("runs of resolved, other or unauthorised alerts", wrong, "runs", "0", not wrong, 43, raw),
    ]


def load(space: Events) -> list[Bar]:
    """Events a second that a listener takes with its 99th percentile below a second and none lost, without the door."""
    address = space.get("service", "el-git")["spec"]["clusterIP"]
    rows: list[dict[str, Any]] = []
    for rate in RATES:
        sent, known = Sent(), set(space.runs())
        events = [space.signed("github", fresh("github")) for _ in range(rate * STEP_SECONDS)]
        work = [partial(post, f"http://{address}:8080", one, sent) for one in events]
        paced(work, rate)
        # A listener makes its runs one after the other, at its client's pace: those of a fast step come late.
        new = len(set(settled(space, 60 + len(work))) - known)
        rows.append({"rate": rate, "p99": round(sent.percentile(0.99), 3), "sent": len(work), "runs": new})
        if new != len(work) or rows[-1]["p99"] >= SLOWEST_SECONDS:
            break
    held = [row["rate"] for row in rows if row["runs"] == row["sent"] and row["p99"] < SLOWEST_SECONDS]
    raw = keep("events-load", rows)
    most = max(held, default=0)
    total = sum(row["sent"] for row in rows)
    return [Bar("events a second, p99 < 1 s, none lost", most, "1/s", "reported", bool(held), total, raw)]


def bodies(space: Events) -> list[Bar]:
    """Bodies of 1 KB to 100 MB at the front door: the small ones make their runs, no container ends."""
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        body = payloads.changed(payloads.recorded("github"), fresh("github"))
        body["padding"] = "x" * max(0, size - len(json.dumps(body)) - 64)
        one = payloads.request("github", body, space.keys["webhook-git"]["current"].encode())
        sent = Sent()
        post(space.url("github"), one, sent, timeout=120)
        name, small = keys.data_push("measurements", body["after"]), size <= 1 << 20
        if small:
            eventually(partial(space.matching, name), 30)
        run = bool(space.matching(name))
        rows.append({"bytes": len(one.body), "status": sent.statuses[0], "run": run, "as wanted": run == small})
    again = space.send("schedule", fresh("schedule"))
    eventually(lambda: space.matching(again), 30)
    count = event_stage.restarts(space)
    good = sum(row["as wanted"] for row in rows)
    raw = keep("events-bodies", rows)
    return [
        exactly("bodies of 1 KB to 100 MB answered as wanted", good, len(SIZES), "bodies", raw=raw),
        Bar("containers that ended meanwhile", count, "times", "0", not count, len(SIZES), raw),
    ]


def hostile(space: Events) -> list[Bar]:
    """Hostile values in each field that a filter, a name or a template reads: no run, and no listener ends."""
    before, work, sent = set(space.runs()), [], Sent()
    for kind, fields in FIELDS.items():
        for name in fields:
            for value in VALUES:
                body = payloads.changed(payloads.recorded(kind), fresh(kind))
                _put(body, name, value)
                key = space.keys[SENDERS[kind][1]]["current"].encode()
                one = payloads.request(kind, body, key)
                work.append(partial(post, space.url(kind), one, sent))
    paced(work, 12.0)
    made = {name: run for name, run in settled(space, 120).items() if name not in before}
    count = event_stage.restarts(space)
    raw = keep("events-hostile", {"sent": len(work), "answers": sent.count(), "runs": made})
    wrong = len(made) + count
    return [Bar("hostile values that made a run or ended a listener", wrong, "values", "0", not wrong, len(work), raw)]


def _put(body: Any, path: str, value: str) -> None:
    """Set a value as it is, whatever was there."""
    *way, last = path.split(".")
    for part in way:
        body = body[int(part)] if isinstance(body, list) else body[part]
    body[int(last) if isinstance(body, list) else last] = value


def hygiene(space: Events) -> list[Bar]:
    """Twelve seeded secrets looked for in logs, events, runs and pods; once more with all of Triggers at debug."""
    seeded = {f"{name}/{key}": value for name, pair in space.keys.items() for key, value in pair.items()}
    quiet = _secrets_seen(space, seeded)
    with event_stage.at_debug(space):
        loud = _secrets_seen(space, seeded)
    raw = keep("events-hygiene", {"info": quiet, "debug": loud})
    note = "Triggers' sink prints headers at debug (pkg/sink/sink.go): bearer tokens, GitLab's token" if loud else None
    return [
        Bar("secrets in logs, events, runs, pods", len(quiet), "secrets", "0", not quiet, len(seeded), raw),
        Bar("the same with Triggers at debug", len(loud), "secrets", "0", not loud, len(seeded), raw, note),
    ]


def _secrets_seen(space: Events, seeded: dict[str, str]) -> list[str]:
    """Names of the secrets that something shows after each sender has sent with its old and its new one."""
    for kind in SENDERS:
        for key in ("current", "previous"):
            pattern = space.send(kind, fresh(kind), key=key)
            eventually(partial(space.matching, pattern), 60)
    text = _everything(space)
    return sorted(name for name, value in seeded.items() if value in text)


def _everything(space: Events) -> str:
    """Logs of every pod, the objects beside them, and the logs of Triggers itself."""
    pods = [pod["metadata"]["name"] for pod in space.get("pods")["items"]]
    parts = [space.kubectl("logs", pod, "--all-containers", check=False) for pod in pods]
    parts.append(space.kubectl("get", "events,pods,pipelineruns,eventlisteners,configmaps,jobs", "-o", "yaml"))
    own = ["-l", "app.kubernetes.io/part-of=tekton-triggers", "--tail=-1", "--max-log-requests=10"]
    parts.append(space.target.kubectl("-n", event_stage.TRIGGERS, "logs", *own))
    return "\n".join(parts)


def offline(_: Events) -> list[Bar]:
    """The offline mode beside real Triggers, for each recorded payload."""
    path, tests = log("events-offline.log"), ["tests/e2e/test_events.py", "-k", "offline"]
    with path.open("w") as stream:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
    last = path.read_text().strip().splitlines()[-1]
    passed = int(found[1]) if (found := re.search(r"(\d+) passed", last)) else 0
    raw = str(path.relative_to(ROOT))
    return [exactly("recorded payloads replayed offline as Triggers does", passed, len(SENDERS), "payloads", raw=raw)]


GROUPS = {group.__name__: group for group in (pushes, alerts, load, bodies, hostile, hygiene, offline)}


def _named(name: str, space: Events) -> Callable[[], list[Bar]]:
    """A group that knows its stage, and its name for the report."""

    def group() -> list[Bar]:
        return GROUPS[name](space)

    group.__name__ = name
    return group


def main() -> int:
    """Measure the chosen groups on one stage."""
    chosen = sys.argv[1:] or list(GROUPS)
    target = Target.find()
    target.kubectl("delete", "validatingwebhookconfiguration", event_stage.REFUSAL, "--ignore-not-found")
    with catalog_events.installed(target, NAMESPACE) as space:
        return report("events", [_named(name, space) for name in chosen], only_some=bool(sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
