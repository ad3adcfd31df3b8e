"""From finished restarts to what the Task leaves behind: bundle, MLflow run and model, pictures, report, results."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isotherm import contract, tekton
from isotherm.pinn import artifacts, bundle, device, fields, graph, hardware, quality, restarts, sampling, tracking
from isotherm.pinn.lineage import Lineage
from isotherm.pinn.prepare import Inputs
from isotherm.pinn.recipe import Recipe
from isotherm.pinn.restarts import Trained
from isotherm.registry.client import answers, download

if TYPE_CHECKING:
    from isotherm.pinn.train import Session


def conclude(
    args: argparse.Namespace,
    inputs: Inputs,
    plan: Recipe,
    origin: Lineage,
    trained: list[Trained],
    session: Session,
    *,
    kind: str,
    train_seconds: float,
) -> dict[str, Any]:
    """Judge, export, log; returns the content of train.json, its times aside."""
    with torch.no_grad():
        chosen = restarts.choose(trained)
        metrics = judge(inputs, plan, trained, chosen)
        arrays = fields.collect(inputs, plan, trained, chosen)
        folder = args.model_dir / "bundle"
        hashes = {"data_version": origin.data_version, "dataset_hash": origin.dataset_hash}
        content = bundle.write(folder, inputs, chosen, hashes, metrics, fields.to_bytes(arrays))
        pictures = artifacts.draw(args.reports_dir / "pictures", inputs, chosen.model, chosen.state.theta, arrays)
    digest = content["model_digest"]
    manifest = artifacts.run_manifest(
        folder / contract.RUN_MANIFEST_FILE, **experiment(inputs, plan, origin, chosen, metrics, digest)
    )
    sections, hardware_files = artifacts.hardware_report(args.reports_dir)
    computed_on = device.describe(kind)
    report = {
        "run_id": "",
        "model_uri": "",
        "model_digest": digest,
        "problem": inputs.problem.tag,
        "recipe": plan.name,
        "optimizer": plan.optimizer,
        "architecture": plan.architecture.name,
        "a_model": plan.architecture.a_model,
        "seed": plan.seed,
        "restarts": [_restart(inputs, t, chosen) for t in trained],
        "metrics": metrics,
        "train_seconds": round(train_seconds, 3),
        "device": computed_on,
        "pictures": [picture.entry(args.reports_dir) for picture in pictures],
        "hardware": sections,
        "run_manifest": manifest,
    }
    if session.client is not None:
        tags = tags_of(args, inputs, plan, origin, digest, manifest) | {"hardware.device": computed_on}
        files = {
            "plots": [f for p in pictures for f in (p.path, p.path.with_suffix(".csv"))],
            "hardware": hardware_files,
        }
        with answers(session.uri):
            report["run_id"], report["model_uri"] = log(
                session, inputs, plan, origin, chosen, metrics, tags, folder, files
            )
    print(f"{artifacts.summary(metrics)}; model {digest[:12]}, restart {chosen.restart} of {len(trained)}", flush=True)
    return report


def judge(inputs: Inputs, plan: Recipe, trained: Sequence[Trained], chosen: Trained) -> dict[str, float]:
    """Metrics of the chosen restart, and the spread of `a` over all."""
    metrics = quality.on_heldout(chosen.model, chosen.model.layout.views(chosen.state.theta), inputs, plan.seed)
    spread = quality.a_spread([quality.a_on_grid(t.model, t.state.theta) for t in trained])
    if spread is not None:
        metrics[contract.A_SPREAD] = spread
    not_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not_finite:
        raise tekton.Refused(
            f"training diverged: {', '.join(not_finite)} not finite", remedy="check scales and weights"
        )
    return metrics


def _restart(inputs: Inputs, t: Trained, chosen: Trained) -> dict[str, Any]:
    last = t.state.history[-1]
    return {
        "seed": t.seed,
        "objective": t.objective,
        "pde_loss": last["pde"],
        "misfit": last["data"],
        "val_misfit": quality.on_measurements(t.model, t.model.layout.views(t.state.theta), inputs).get(
            contract.VAL_MISFIT
        ),
        "iterations": t.state.iteration,
        "seconds": round(t.state.seconds, 3),
        "chosen": t is chosen,
    }


def experiment(
    inputs: Inputs, plan: Recipe, origin: Lineage, chosen: Trained, metrics: dict[str, float], digest: str
) -> dict[str, dict[str, Any]]:
    """The four blocks of E = (D, M, Theta, R)."""
    return {
        "D": {
            "dataset_hash": origin.dataset_hash,
            "data_version": origin.data_version,
            "data_git_sha": origin.data_git_sha,
            "rows": inputs.measured_rows,
            "rows_used": len(inputs.train.u),
            "rows_heldout": len(inputs.heldout.u),
            "heldout_rule": inputs.heldout_rule,
        },
        "M": {
            "problem": inputs.problem.tag,
            "problem_digest": inputs.problem.digest,
            "equation": contract.EQUATION,
            "architecture": plan.architecture.name,
            "a_exp": chosen.model.architecture.a_exp,
            "parameters": chosen.model.layout.size,
        },
        "Theta": plan.as_dict(),
        "R": {
            "model_digest": digest,
            "metrics": metrics,
            "chosen_seed": chosen.seed,
            "optimizer": plan.optimizer,
            "git_sha": origin.git_sha,
            "image_digest": origin.image_digest,
        },
    }


def tags_of(
    args: argparse.Namespace, inputs: Inputs, plan: Recipe, origin: Lineage, digest: str, manifest: str
) -> dict[str, str]:
    """Lineage and search tags of the run."""
    return {
        contract.TAG_PROBLEM: inputs.problem.tag,
        contract.TAG_DATASET_HASH: origin.dataset_hash,
        contract.TAG_DATA_VERSION: origin.data_version,
        contract.TAG_DATA_GIT_SHA: origin.data_git_sha,
        contract.TAG_ARCHITECTURE: plan.architecture.name,
        contract.TAG_OPTIMIZER: plan.optimizer,
        contract.TAG_GIT_SHA: origin.git_sha,
        contract.TAG_IMAGE_DIGEST: origin.image_digest,
        contract.TAG_RUN_MANIFEST: manifest,
        contract.TAG_MODEL_DIGEST: digest,
        "domain": contract.DOMAIN,
        "equation": contract.EQUATION,
        "dataset_branch": args.dataset_branch,
        "depth": str(plan.depth),
        "w_pde": f"{plan.weights.w_pde:g}",
        **hardware.tags(),
    }


def params_of(inputs: Inputs, plan: Recipe, origin: Lineage) -> dict[str, Any]:
    """Params of the run: the trainer's flags first."""
    weights = plan.weights
    return {
        "epochs": plan.epochs,
        "lr": "none" if plan.lr is None else plan.lr,
        "a_reg": weights.a_reg,
        "f_reg": weights.f_reg,
        "dataset_hash": origin.dataset_hash,
        "data_version": origin.data_version,
        "architecture": plan.architecture.name,
        "recipe": plan.name,
        "a_model": plan.architecture.a_model,
        "infer_f": plan.architecture.infer_f,
        "w_pde": weights.w_pde,
        "w_bc": weights.w_bc,
        "w_ic": weights.w_ic,
        "restarts": plan.restarts,
        "seed": plan.seed,
        "collocation_points": plan.counts.interior,
        "rows": len(inputs.train.u),
    }


def log(
    session: Session,
    inputs: Inputs,
    plan: Recipe,
    origin: Lineage,
    chosen: Trained,
    metrics: dict[str, float],
    tags: dict[str, str],
    folder: Path,
    files: dict[str, list[Path]],
) -> tuple[str, str]:
    """Log everything to MLflow; returns run id and model URI."""
    client, run = session.client, session.run
    tracking.describe(client, run, params_of(inputs, plan, origin), tags)
    source = {"dataset_hash": origin.dataset_hash, "data_git_sha": origin.data_git_sha}
    tracking.log_dataset(client, run, inputs.problem.id, origin.dataset_hash, source)
    with torch.no_grad():
        points = sampling.interior(chosen.model.setting, plan.counts.interior, plan.seed)
        _, power = quality.residual_and_power(chosen.model, chosen.model.layout.views(chosen.state.theta), points)
        module = graph.FieldGraph(chosen.model, chosen.state.theta)
        example = graph.example(chosen.model).numpy()
    curve = [(int(row["iteration"]), math.sqrt(row["pde"] / power)) for row in chosen.state.history]
    tracking.log_metrics(client, run, metrics, curve)
    extra = [folder / name for name in (*bundle.SERVED, contract.MANIFEST_FILE, contract.RUN_MANIFEST_FILE)]
    uri = tracking.log_model(client, run, module, example, tags[contract.TAG_MODEL_DIGEST], extra)
    with tempfile.TemporaryDirectory() as fetched:
        pt2 = download(client, uri, "data/model.pt2", Path(fetched))
        tekton.write_atomic(folder / bundle.MODEL_PT2, pt2.read_bytes())
    tracking.finish(client, run, {"": [folder / contract.RUN_MANIFEST_FILE, folder / fields.FILE], **files})
    return run.run_id, uri
