"""The log of a rollout's decisions: one JSON object a look, enough to reach every verdict again without the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from isotherm.rollout.judge import Judge, Look, Metric, Plan, Verdict
from isotherm.rollout.sequential import Counts

SCHEMA_VERSION = 1


class WrongLog(ValueError):
    """A line that is no decision, or whose verdict does not follow from what stands before it."""


def header(plan: Plan, **about: Any) -> str:
    """The first line: the plan, and what the rollout is about (model, digests, step)."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "plan": asdict(plan), **about}, sort_keys=True)


def line(judge: Judge, look: Look, **about: Any) -> str:
    """One look and the verdict that stood after it; `judge` has seen it already."""
    states = {name: {"ratio": state.ratio, "rate": state.rate} for name, state in sorted(judge.states.items())}
    counts = {name: [asdict(canary), asdict(stable)] for name, (canary, stable) in sorted(look.counts.items())}
    record = {
        "counts": counts, "problem": look.problem, "statistics": states, "bounds": asdict(judge.plan.bounds()),
        "verdict": judge.verdict().value, "reason": judge.reason(), **about,
    }  # fmt: skip
    return json.dumps(record, sort_keys=True)


def replay(lines: Iterable[str]) -> Iterator[Verdict]:
    """Judge a log again. Raises `WrongLog` at the first line whose verdict is another one than the log says."""
    rest = iter(lines)
    judge = Judge(_plan(_read(1, next(rest, ""))))
    for number, text in enumerate(rest, start=2):
        record = _read(number, text)
        try:
            counts = {name: (Counts(**canary), Counts(**stable)) for name, (canary, stable) in record["counts"].items()}
            judge = judge.see(Look(counts, record["problem"]))
            said = Verdict(record["verdict"])
        except (KeyError, TypeError, ValueError) as error:
            raise WrongLog(f"line {number} is no decision: {error}") from error
        if judge.verdict() is not said:
            raise WrongLog(f"line {number} says {said.value}, but its counts say {judge.verdict().value}")
        yield said


def _read(number: int, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise WrongLog(f"line {number} is not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise WrongLog(f"line {number} is no object")
    return record


def _plan(record: dict[str, Any]) -> Plan:
    if record.get("schema_version") != SCHEMA_VERSION:
        raise WrongLog(f"line 1 has schema_version {record.get('schema_version')}, not {SCHEMA_VERSION}")
    try:
        given = dict(record["plan"])
        return Plan(tuple(Metric(**metric) for metric in given.pop("metrics")), **given)
    except (KeyError, TypeError, ValueError) as error:
        raise WrongLog(f"line 1 has no plan: {error}") from error
