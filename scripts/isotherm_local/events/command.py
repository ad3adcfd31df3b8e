"""`isotherm event`: send a recorded event to a listener, or ask offline what a listener would make of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm_local.events import payloads

_WAIT_SECONDS = 30.0


def pair(what: str) -> Any:
    """Make the reader of an option's `NAME=VALUE`; `what` says its form where it has another."""

    def read(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return name, value

    return read


def add(commands: Any, place: argparse.ArgumentParser) -> None:
    """Describe the command."""
    one = commands.add_parser(
        "event",
        parents=[place],
        help="send an event as its sender would, or ask offline what a listener makes of it",
        description="Send a recorded event, signed as its sender signs, to a listener, and show the PipelineRun that "
        "it made; or, with --offline, show what the listener in a YAML file or folder would make of it, without a "
        "cluster.",
        epilog="kinds: " + "; ".join(f"{kind}: {sender.words}" for kind, sender in payloads.SENDERS.items()),
    )
    one.add_argument(
        "kind", metavar="KIND", choices=payloads.SENDERS, help="kind of event: " + ", ".join(payloads.SENDERS)
    )
    one.add_argument(
        "--set",
        dest="sets",
        type=pair("NAME=VALUE"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a value of the payload, such as after=SHA or alerts.0.startsAt=TIME; NAME:=JSON sets any JSON",
    )
    one.add_argument("--payload", type=Path, metavar="FILE", help="a payload of your own (default: the recorded one)")
    one.add_argument(
        "--secret-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="file with the listener's secret on one line; a bearer token with or without `Bearer `",
    )
    _add_targets(one)
    one.set_defaults(action=event)


def _add_targets(one: argparse.ArgumentParser) -> None:
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="URL", help="send it to this listener")
    where.add_argument(
        "--offline",
        type=Path,
        action="append",
        metavar="FILE_OR_FOLDER",
        help="ask the listener in this YAML file, folder or kustomization (again for more files, such as its Secrets)",
    )
    one.add_argument("--listener", default="", metavar="NAME", help="with --offline: name of the EventListener")
    one.add_argument(
        "--interceptor",
        dest="interceptors",
        type=pair("NAME=URL"),
        action="append",
        default=[],
        metavar="NAME=URL",
        help="with --offline: where Interceptor NAME answers; one without a URL is not asked, and so nothing passes it",
    )
    one.add_argument(
        "--wait",
        type=float,
        default=_WAIT_SECONDS,
        metavar="S",
        help=f"with --to and --namespace: seconds to wait for the PipelineRun (default: {_WAIT_SECONDS:g})",
    )


def event(options: argparse.Namespace) -> int:
    """Send an event, or ask offline; say which run it has or why none."""
    if options.offline and not options.listener:
        raise tekton.BadInput("no listener is named", remedy="add --listener NAME, the EventListener's name")
    secret = payloads.secret_of(options.secret_file)
    payload = payloads.changed(payloads.recorded(options.kind, options.payload), options.sets)
    request = payloads.request(options.kind, payload, secret)
    if options.offline:
        return _offline(options, request, secret)
    return _send(options, request, payload)


def _offline(options: argparse.Namespace, request: payloads.Request, secret: bytes) -> int:
    from isotherm_local.events import offline
    from isotherm_local.lint import gotools

    try:
        report = offline.replay(
            payloads.behind_the_door(request, secret),
            options.listener,
            options.offline,
            namespace=options.namespace,
            interceptors=options.interceptors,
            assumed=secret,
        )
    except gotools.Missing as error:
        raise tekton.Unavailable(f"listeners cannot be asked offline: {error}", remedy="then try again") from error
    print(offline.shown(report), flush=True)
    if not report.created:
        raise tekton.Refused(
            f"listener {report.listener} makes nothing of this {options.kind} event: {_first_reason(report.outcomes)}",
            remedy="mend the event or the listener",
        )
    return 0


def _first_reason(outcomes: Sequence[Any]) -> str:
    reasons = [f"{one.trigger}: {one.reason}" for one in outcomes if one.reason]
    return reasons[0] if len(reasons) == 1 else "the reasons are above"


def _send(options: argparse.Namespace, request: payloads.Request, payload: Any) -> int:
    from isotherm_local import live
    from isotherm_local.events import send

    if not options.namespace:
        status = send.send(request, options.to)
        print(f"{options.to} answers {status}, as it does before it checks anything; add -n NAMESPACE to see the run")
        return 0
    api, _, _ = live.api_client(options.state)
    found = send.send_and_find(
        request,
        options.to,
        lambda: live.items(api, live.PIPELINE_RUNS, options.namespace),
        payloads.names(options.kind, payload),
        seconds=options.wait,
    )
    if found is None:
        raise send.nothing(options.namespace, options.wait, options.kind)
    print(send.described(found, options.namespace))
    return 0
