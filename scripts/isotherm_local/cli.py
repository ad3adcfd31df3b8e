"""The `isotherm` command: run Pipelines here, see what serves, roll back, send events, check the catalog.

Run, list and delete act on the local runner's records (build/local, or --state); status and rollback act on the cluster
of the current kubeconfig and, where there is none, on the local target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm_local.events import command as events

ROOT = Path(__file__).resolve().parents[2]
CANCELLED_EXIT = 130


def run(options: argparse.Namespace) -> int:
    """Run a PipelineRun or TaskRun, show it, and end with its cause where it failed."""
    from isotherm_local.runner import display, plan
    from isotherm_local.runner.run import run_pipeline

    params = dict(options.param)
    if options.fields or options.check:
        made = plan.make(
            plan.Request(
                options.file,
                ROOT,
                options.state,
                options.namespace,
                params,
                options.files,
                options.name,
                options.foreign_images == "host",
            )
        )
        tasks = ", ".join(task.name for task in made.pipeline.tasks)
        print(f"{made.document.kind} {made.name} can run here: {tasks}")
        if options.fields:
            print("accepted without effect: " + (", ".join(made.without_effect) or "nothing"))
        return 0
    with display.choose(verbose=options.verbose, plain=options.plain) as watcher:
        done = run_pipeline(
            options.file,
            state=options.state,
            namespace=options.namespace,
            params=params,
            files=options.files,
            name=options.name,
            delete_first=options.delete_first,
            observer=watcher,
            foreign_images=options.foreign_images == "host",
        )
    *lines, last = display.ending(done)
    print("\n".join([*lines, last] if done.succeeded else lines), flush=True)
    if not done.succeeded:
        print(last, file=sys.stderr, flush=True)
    return 0 if done.succeeded else CANCELLED_EXIT if done.reason == "Cancelled" else 1


def list_runs(options: argparse.Namespace) -> int:
    """List the local runs of a namespace."""
    from isotherm_local.runner import display, record

    print("\n".join(display.listing(record.Namespace(options.state, options.namespace or "default").runs())))
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete a local run's record and logs; what it left in claims stays."""
    from isotherm_local.runner import record

    for name in options.run:
        gone = record.delete(record.Namespace(options.state, options.namespace or "default").run(name))
        print(f"{gone.kind} {gone.name} deleted")
    return 0


def fields(_: argparse.Namespace) -> int:
    """Print the table of Tekton's fields."""
    from isotherm_local.runner.field_table import Treatment
    from isotherm_local.runner.fields import table

    rows = table()
    for treatment in Treatment:
        print(f"{treatment.value}:")
        width = max(len(row.path) for row in rows if row.treatment is treatment)
        for row in rows:
            if row.treatment is treatment:
                print(f"  {row.path.ljust(width)}  {row.note}".rstrip())
    print("Any other field is refused as unknown.")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print which colour is live for each Route."""
    from isotherm_local import live

    return live.print_status(live.api_client(options.state, options.local), options.namespace, options.json)


def decisions(options: argparse.Namespace) -> int:
    """Judge a canary's log again; an exit code of 0 means that every verdict follows from the counts beside it."""
    from isotherm.rollout import decisions as log

    try:
        lines = options.file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise tekton.BadInput(
            f"{options.file} cannot be read ({error.strerror})", remedy="give a decisions/*.jsonl"
        ) from error
    try:
        for line, verdict in zip(lines[1:], log.replay(lines), strict=True):
            record = json.loads(line)
            print(f"{record.get('seconds', 0):7.1f} s  {verdict.value:<8}  {record['reason']}")
    except log.WrongLog as error:
        raise tekton.Refused(
            f"{options.file}: {error}", remedy="somebody changed it, or it is no decision log"
        ) from error
    print(f"{len(lines) - 1} verdicts follow from their counts")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Give a model's traffic back to the previous one through Pipeline rollback."""
    from isotherm_local import live

    return live.rollback(options)


def up(options: argparse.Namespace) -> int:
    """Start the local target."""
    from isotherm_local.cluster import Cluster

    where = Cluster(options.state).start()
    print(f"local target: up; router {where.router_url}, MLflow {where.mlflow_url}")
    print(f"export KUBECONFIG={options.state / 'kubeconfig'}")
    return 0


def down(options: argparse.Namespace) -> int:
    """Stop the local target's processes."""
    from isotherm_local.cluster import Cluster

    print("local target: stopped" if Cluster(options.state).stop() else "local target: was down")
    return 0


def lint(options: argparse.Namespace) -> int:
    """Check the catalog; the linter has arguments of its own."""
    from isotherm_local.lint import main as check

    return check(options.arguments)


def images(options: argparse.Namespace) -> int:
    """Build the images; the builder has arguments of its own."""
    from isotherm_local.images.command import main as build

    return build(options.arguments)


def hardware(options: argparse.Namespace) -> int:
    """Report the machine, as a training does, from the trainer's own environment."""
    python = ROOT / ".venv" / "pinn-trainer" / "bin" / "python"
    if not python.exists():
        raise tekton.Unavailable("environment .venv/pinn-trainer is not there", remedy="run python3 scripts/setup.py")
    command = [str(python), "-m", "isotherm.pinn.hardware", *options.arguments]
    return subprocess.run(command, check=False).returncode


# These read their own options, --help included.
PASSED_ON = {
    "lint": (lint, "check the catalog"),
    "images": (images, "build the images and print their sizes"),
    "hardware": (hardware, "report this machine"),
}


def _run_options(one: argparse.ArgumentParser, setting: dict[str, Any]) -> None:
    one.add_argument("file", type=Path, metavar="FILE", help="YAML file with one PipelineRun or TaskRun")
    one.add_argument("-p", "--param", **setting)
    one.add_argument(
        "-f", "--file", dest="files", type=Path, action="append", default=[], help="further Pipelines and Tasks"
    )
    one.add_argument("--name", default="", help="name of the run (default: the file's)")
    one.add_argument("--delete-first", action="store_true", help="delete a run of this name first; claims stay")
    one.add_argument(
        "--foreign-images",
        choices=("refuse", "host"),
        default="refuse",
        help="steps of images that are not the catalog's: refuse, or run them as processes of this machine (host), "
        "with its programs, its files and your rights (default: refuse)",
    )
    one.add_argument("--check", action="store_true", help="only say whether it can run here")
    one.add_argument("--fields", action="store_true", help="only say which of its fields have no effect here")
    one.add_argument("--plain", action="store_true", help="print lines on a terminal too")
    one.add_argument("-v", "--logs", dest="verbose", action="store_true", help="show every line that Tasks write")
    one.set_defaults(action=run)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog="isotherm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    setting: dict[str, Any] = {
        "type": events.pair("name=value"),
        "action": "append",
        "default": [],
        "metavar": "NAME=VALUE",
    }
    setting["help"] = "set a param (an array as a,b or JSON)"
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("-n", "--namespace", default="", help="namespace (default: the object's, else `default`)")
    place.add_argument(
        "--state", type=Path, default=ROOT / "build" / "local", help="folder of the local target (default: build/local)"
    )

    _run_options(
        commands.add_parser("run", parents=[place], help="run a PipelineRun or TaskRun on this machine"), setting
    )
    several = commands.add_parser("list", parents=[place], help="list the runs on this machine")
    several.set_defaults(action=list_runs)
    gone = commands.add_parser("delete", parents=[place], help="delete runs of this machine; claims stay")
    gone.add_argument("run", nargs="+", metavar="RUN")
    gone.set_defaults(action=delete)
    shown = commands.add_parser("fields", help="print which of Tekton's fields the local runner honours")
    shown.set_defaults(action=fields)

    seen = commands.add_parser("status", parents=[place], help="which colour is live, its version, data, since when")
    seen.add_argument("--json", action="store_true", help="print JSON")
    seen.add_argument("--local", action="store_true", help="ask the local target, whatever the current kubeconfig says")
    seen.set_defaults(action=status)
    back = commands.add_parser("rollback", parents=[place], help="give the traffic back to the previous model")
    back.add_argument("model", metavar="MODEL", help="name of the registered model (its Route has the same name)")
    back.add_argument("--route", default="", help="name of the Route where it differs from the model's")
    back.add_argument("-p", "--param", **setting)
    back.add_argument("--local", action="store_true", help="on the local target, whatever the current kubeconfig says")
    back.set_defaults(action=rollback)

    judged = commands.add_parser("decisions", help="judge the log of a canary's step again")
    judged.add_argument("file", type=Path, metavar="FILE", help="decisions/WEIGHT.jsonl of a run's reports")
    judged.set_defaults(action=decisions)

    events.add(commands, place)

    start = commands.add_parser("up", aliases=["start"], parents=[place], help="start the local target")
    start.set_defaults(action=up)
    stop = commands.add_parser("down", aliases=["stop"], parents=[place], help="stop the local target")
    stop.set_defaults(action=down)
    for name, (what, words) in PASSED_ON.items():
        passed = commands.add_parser(name, help=words, add_help=False)
        passed.add_argument("arguments", nargs=argparse.REMAINDER)
        passed.set_defaults(action=what)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and act; errors are one line with what, why and the remedy."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in PASSED_ON:
        options = argparse.Namespace(action=PASSED_ON[arguments[0]][0], arguments=arguments[1:])
    else:
        options = parser().parse_args(arguments)
    code = 0

    def act() -> None:
        nonlocal code
        code = options.action(options)

    return tekton.main(act) or code


if __name__ == "__main__":
    raise SystemExit(main())
