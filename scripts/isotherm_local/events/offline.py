"""What a listener would make of a request, without a cluster: Triggers' own code judges, as in an EventListener's pod.

Reads  YAML files, folders of them, or kustomizations (rendered), with the listener and all that it refers to
Gives  a `Report`: for each trigger the resources that it would create, or why it makes none
Needs  Go, to build the program in scripts/triggers once
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isotherm import tekton
from isotherm_local.events import payloads
from isotherm_local.lint import gotools

ROOT = Path(__file__).resolve().parents[3]
_BAD_INPUT = 2
_SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """What one trigger made of the event, or one group of triggers: `created`, or the `reason` why not."""

    trigger: str
    created: Sequence[Mapping[str, Any]]
    reason: str
    group: bool


@dataclass(frozen=True)
class Report:
    """What a listener made of an event; `status` is its HTTP answer, `assumed` the Secrets that no file has."""

    listener: str
    status: int
    message: str
    errors: Sequence[str]
    assumed: Sequence[str]
    missing: Sequence[str]
    outcomes: Sequence[Outcome]

    @property
    def created(self) -> list[Mapping[str, Any]]:
        """Every resource that a trigger would create."""
        return [made for outcome in self.outcomes for made in outcome.created]


def program() -> Path:
    """Return the program that judges. Raises `gotools.Missing`."""
    return gotools.replayer(ROOT / "scripts" / "triggers")


def _rendered(folder: Path) -> str:
    text, refusal = gotools.render(gotools.kustomize(ROOT / "scripts" / "schemas"), folder)
    if refusal:
        raise tekton.BadInput(f"{folder} does not render ({refusal})", remedy="make `kustomize build` succeed there")
    return text


def _sources(place: Path, into: Path) -> Iterator[Path]:
    """Name the YAML files of a place: a file, a kustomization (rendered into a folder), or a folder's files."""
    if place.is_dir() and any((place / name).exists() for name in ("kustomization.yaml", "kustomization.yml")):
        rendered = into / f"{sum(1 for _ in into.iterdir())}.yaml"
        rendered.write_text(_rendered(place), encoding="utf-8")
        yield rendered
    elif place.is_dir():
        yield from sorted([*place.glob("*.yaml"), *place.glob("*.yml")])
    else:
        yield place


def replay(
    request: payloads.Request,
    listener: str,
    places: Sequence[Path],
    *,
    namespace: str = "",
    interceptors: Sequence[tuple[str, str]] = (),
    assumed: bytes | None = None,
) -> Report:
    """Give a request to a listener. Secrets that no file has hold `assumed` (key `current`), where that is given.

    Raises `BadInput` where files or listener cannot be used, `gotools.Missing` without the program.
    """
    judge = program()
    with tempfile.TemporaryDirectory(prefix="isotherm-event-") as name:
        folder = Path(name)
        files = [path for place in places for path in _sources(place, folder)]
        command = [str(judge), "-listener", listener]
        command += ["-namespace", namespace] if namespace else []
        for interceptor, url in interceptors:
            command += ["-interceptor", f"{interceptor}={url}"]
        if assumed is not None:
            (folder / "secret").write_bytes(assumed)
            command += ["-assume-secret", str(folder / "secret")]
        done = subprocess.run(
            [*command, "--", *map(str, files)], input=request.raw(), capture_output=True, check=False, timeout=_SECONDS
        )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = (lines or ["no message"])[-1 if done.returncode == _BAD_INPUT else 0].removeprefix("replay: ")
        raise tekton.BadInput(f"listener {listener} cannot be asked: {why}", remedy="give its YAML as a cluster has it")
    return _report(json.loads(done.stdout))


def _report(body: Mapping[str, Any]) -> Report:
    return Report(
        listener=body["listener"],
        status=body["status"],
        message=body.get("message", ""),
        errors=body.get("errors") or (),
        assumed=body.get("assumedSecrets") or (),
        missing=body.get("missingSecrets") or (),
        outcomes=[
            Outcome(one["trigger"], one["created"] or (), one.get("reason", ""), one.get("group", False))
            for one in body["triggers"]
        ],
    )


def _comment(text: str) -> str:
    return "# " + " ".join(text.split())


def shown(report: Report) -> str:
    """Write a report as YAML: what is created as documents, everything else as comments."""
    lines = [_comment(f"listener {report.listener} answers {report.status} {report.message}")]
    lines += [_comment(f"Secret {name} is in no file: taken to hold the secret given") for name in report.assumed]
    lines += [_comment(f"Secret {name} is in no file") for name in report.missing]
    lines += [_comment(error) for error in report.errors]
    for outcome in report.outcomes:
        what = "group" if outcome.group else "trigger"
        if outcome.reason:
            lines.append(_comment(f"{what} {outcome.trigger}: {outcome.reason}"))
        elif not outcome.created:
            lines.append(_comment(f"{what} {outcome.trigger}: " + ("passed" if outcome.group else "creates nothing")))
        for made in outcome.created:
            lines.append(_comment(f"{what} {outcome.trigger} creates {made['kind']}:"))
            lines += ["---", yaml.safe_dump(made, sort_keys=False, allow_unicode=True).rstrip()]
    return "\n".join(lines)
