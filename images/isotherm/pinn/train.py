"""Infer the diffusivity of a plate from measurements of its temperature (program of the Task `pinn-train`).

Reads   a dataset folder (--data, else DATA_DIR/DATASET_HASH); each flag's default is the environment variable of the
        Task's param; MODEL_DIR, REPORTS_DIR, optional MLFLOW_CREDENTIALS_DIR; for lineage ISOTHERM_GIT_SHA, IMAGE_REF
Writes  checkpoints and the bundle under MODEL_DIR, train.json and pictures under REPORTS_DIR, one MLflow run and model
Results run-id, model-uri, model-digest, pde-loss, val-residual

Started again after a kill, with the same inputs and workspaces, it continues and ends with the same parameters, the
same run and the same model; started again after the end, it trains nothing. By hand without ISOTHERM_GIT_SHA, IMAGE_REF
and --data-git-sha the lineage says `unknown`. Without --mlflow nothing is logged.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isotherm import contract, tekton
from isotherm.pinn.wishes import A_MODELS, AUTO, DEVICES, RECIPES, Wishes

_FALSE_TRUE = {"false": False, "true": True}


def _at_least(least: int) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        if text == "":
            return None
        if not text.strip().isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}; correct the param")
        return int(text)

    return parse


def _not_negative(text: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0; correct the param")
    return value


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    # argparse holds a flag's value against `choices`, but not a default, and a Task's param comes in as one.
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}; correct the param")
        return text

    return parse


def _truth(text: str) -> bool:
    if text.lower() not in _FALSE_TRUE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false; correct the param")
    return _FALSE_TRUE[text.lower()]


def _env(name: str, otherwise: str = "") -> str:
    return os.environ.get(name) or otherwise


def parser() -> argparse.ArgumentParser:
    """Build the command line; defaults come from the environment, as the Task sets it."""
    built = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = built.add_argument
    dataset = Path(_env("DATA_DIR"), _env("DATASET_HASH")) if _env("DATASET_HASH") else None
    add("--data", type=Path, default=dataset, metavar="DIR", help="dataset folder")
    add("--mlflow", default=_env("MLFLOW_URI", _env("MLFLOW_TRACKING_URI")), metavar="URL", help="MLflow server")
    add(
        "--recipe",
        type=_one_of(RECIPES),
        choices=RECIPES,
        default=_env("RECIPE", "lm"),
        help="lm (default), or source: Adam with 5x128",
    )
    counted, real = _at_least(1), _not_negative
    add("--epochs", type=counted, default=_env("EPOCHS"), help="lm: cap on iterations; source: iterations (20000)")
    add("--lr", type=real, default=_env("LR"), help="learning rate of recipe source (1e-3); refused with lm")
    add("--a-reg", type=real, default=_env("A_REG"), help="weight of mean |grad a|^2")
    add("--f-reg", type=real, default=_env("F_REG"), help="weight of mean f^2, with --infer-f")
    add("--w-pde", type=real, default=_env("W_PDE"), help="weight of the equation, the data weighing 1 per sigma^2")
    add("--w-bc", type=real, default=_env("W_BC"), help="weight of the edge condition")
    add("--w-ic", type=real, default=_env("W_IC"), help="weight of the initial state")
    add(
        "--a-model",
        type=_one_of(A_MODELS),
        choices=A_MODELS,
        default=_env("A_MODEL", "auto"),
        help="form of a (default: problem.yaml's)",
    )
    add(
        "--infer-f",
        type=_truth,
        nargs="?",
        const=True,
        default=_env("INFER_F", "false"),
        help="infer a static f(x, y)",
    )
    add("--restarts", type=counted, default=_env("RESTARTS", "3"), help="trainings from different starts (default 3)")
    add("--seed", type=_at_least(0), default=_env("SEED", "0"), help="seed of points and starts (default 0)")
    add(
        "--device",
        type=_one_of(DEVICES),
        choices=DEVICES,
        default=_env("DEVICE", AUTO),
        help="auto (default): a GPU where there is one",
    )
    add("--experiment", default=_env("EXPERIMENT", contract.EXPERIMENT), help="MLflow experiment")
    add("--pipeline-run", default=_env("PIPELINE_RUN"), help="name of the PipelineRun")
    add("--data-git-sha", default=_env("DATA_GIT_SHA"), help="commit of the data repository")
    add("--dataset-branch", default=_env("DATASET_BRANCH", "main"), help="branch of the data, for the tag")
    add("--model-dir", type=Path, default=Path(_env("MODEL_DIR", "isotherm-run/model")), help="checkpoints and bundle")
    add("--reports-dir", type=Path, default=Path(_env("REPORTS_DIR", "isotherm-run/reports")), help="reports")
    return built


def wishes(args: argparse.Namespace) -> Wishes:
    """Pick the recipe's flags out of the command line."""
    return Wishes(**{name: getattr(args, name) for name in Wishes.__dataclass_fields__})


class Display:
    """Progress: a line per restart and interval; on a terminal one line that is rewritten."""

    def __init__(self, interval_seconds: float = 2.0) -> None:
        self.terminal = sys.stdout.isatty()
        self.interval = interval_seconds
        self.told: dict[int, float] = {}

    def __call__(self, progress: Any) -> None:
        """Show one report of a restart."""
        now = time.monotonic()
        ended = progress.iteration >= progress.of
        if not ended and now - self.told.get(progress.restart, -self.interval) < self.interval:
            return
        self.told[progress.restart] = now
        terms = "  ".join(f"{'misfit' if n == 'data' else n} {v:.3g}" for n, v in progress.terms.items() if v)
        line = (
            f"restart {progress.restart}  iteration {progress.iteration}/{progress.of}  stage {progress.stage + 1}  "
            f"{terms}  {progress.seconds:.1f} s"
        )
        print(f"\r\033[K{line}" if self.terminal else line, end="\n" if ended or not self.terminal else "", flush=True)


def train(args: argparse.Namespace, credentials: Path | None) -> dict[str, Any]:
    """Do the whole training; returns what the report holds beside its times."""
    from isotherm.data import schema
    from isotherm.pinn import device, lineage, prepare, recipe, restarts

    if args.data is None:
        raise tekton.BadInput("no dataset is given", remedy="give --data, or DATA_DIR and DATASET_HASH")
    kind = device.resolve(args.device)
    dataset = schema.load(args.data)
    plan = recipe.resolve(wishes(args), dataset.problem)
    inputs = prepare.prepare(dataset, args.data)
    inputs.setting()  # a table or an ambient record that is missing is refused now, not in a worker
    origin = lineage.read(args.data, args.data_git_sha, args.pipeline_run)
    key = lineage.content_key(origin, plan, dataset.problem.digest)
    session = Session(args, key, credentials)
    print(
        f"{dataset.problem.title}: {len(inputs.train.u)} rows, {len(inputs.heldout.u)} kept ({inputs.heldout_rule}), "
        f"{plan.architecture.name}, {plan.optimizer}, {plan.restarts} restarts on {kind}, {origin.data_version}",
        flush=True,
    )
    started = time.monotonic()
    checkpoints = args.model_dir / "checkpoints" / key[:16]
    trained = restarts.run_all(inputs, plan, checkpoints, Display(), session.open, kind)
    seconds = time.monotonic() - started

    from isotherm.pinn.outcome import conclude

    return conclude(args, inputs, plan, origin, trained, session, kind=kind, train_seconds=seconds)


class Session:
    """The connection to MLflow and this training's run; `client` is None where no server was given."""

    def __init__(self, args: argparse.Namespace, key: str, credentials: Path | None) -> None:
        self.uri, self.experiment, self.pipeline_run = args.mlflow, args.experiment, args.pipeline_run
        self.key, self.credentials = key, credentials
        self.client: Any = None
        self.run: Any = None

    def open(self) -> None:
        """Connect and find or create the run; called while the first restarts train."""
        if not self.uri:
            return
        from isotherm.pinn import tracking
        from isotherm.registry.client import answers, connect

        self.client = connect(self.uri, self.credentials)
        with answers(self.uri):
            self.run = tracking.open_run(self.client, self.experiment, self.key, self.pipeline_run)
        print(f"MLflow run {self.run.run_id}", flush=True)


def run() -> None:
    """Read the command line, train, and write results on every way out."""
    with tekton.results(run_id="", model_uri="", model_digest="", pde_loss="", val_residual="") as results:
        args = parser().parse_args()
        folder = _env("MLFLOW_CREDENTIALS_DIR")
        with tekton.report(args.reports_dir / contract.REPORT_TRAIN, "pinn-train") as report:
            report.update(train(args, Path(folder) if folder else None))
        results.run_id, results.model_uri = report["run_id"], report["model_uri"]
        results.model_digest, metrics = report["model_digest"], report["metrics"]
        results.pde_loss = f"{metrics[contract.PDE_LOSS]:.6g}"
        results.val_residual = f"{metrics[contract.VAL_RESIDUAL]:.6g}"


def main() -> int:
    """Run as the Task's step, or by hand."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser().parse_args()  # ends here: a step prints all on stderr, help belongs on stdout
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
