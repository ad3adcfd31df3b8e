"""Judge a trained model on physics and on measurements that it never saw (program of the Task `evaluate-metrics`).

Reads   DATASET_HASH, RUN_ID, MODEL_URI, MODEL_DIGEST, MODEL_NAME, PDE_LOSS_MAX, VAL_RESIDUAL_MAX, MIN_IMPROVEMENT,
        MLFLOW_URI;
        the dataset under DATA_DIR, the bundle and train.json under MODEL_DIR and REPORTS_DIR, optional credentials in
        MLFLOW_CREDENTIALS_DIR
Writes  evaluation.json and pictures under REPORTS_DIR; tags `verdict` and `gate_reason` on the training run
Results verdict (pass or fail), reason, champion-version (empty = none), report

The verdict `fail` is a successful run of this program: the pipeline stops by its `when`, not by an error.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from isotherm import contract, tekton
from isotherm.pinn import champion as champions
from isotherm.pinn import gate
from isotherm.tekton import Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from isotherm.data.schema import Dataset
    from isotherm.pinn.measure import Array, Graph

PARITY_MAX = 1e-6
_ADVICE = {contract.VERDICT_FAIL: "; traffic stays where it is: see evaluation.json, mend the data or the training"}


def open_bundle(folder: Path, model_digest: str) -> Graph:
    """Check a bundle as the server will, and return its graph on one thread.

    Raises `Refused` when a file is missing or altered, or when the bundle is another model.
    """
    import onnxruntime

    from isotherm import bundle

    content = bundle.load(folder, model_digest, exact=False).graph
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def graph(points: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, {contract.ONNX_POINTS: points}), strict=True))

    return graph


def parity(bundle: Path, graph: Graph, points: Array) -> float:
    """Return the largest difference of ONNX and torch over all outputs, relative to each output's largest value."""
    import numpy as np
    import torch

    module = torch.export.load(bundle / "model.pt2").module()
    with torch.no_grad():
        columns = module(torch.from_numpy(points)).numpy().T
    pairs = zip(graph(points).values(), columns, strict=True)
    differences = [np.max(np.abs(torch_ - onnx)) / max(np.max(np.abs(onnx)), 1e-300) for onnx, torch_ in pairs]
    return float(np.max(differences))  # the builtin max would lose a NaN


def require_parity(difference: float, verdict: str) -> None:
    """Refuse a graph that answers differently from the trained model.

    Answers that are not finite have no difference (NaN); the gate fails them, and one that does not is refused here.
    """
    if difference > PARITY_MAX or (math.isnan(difference) and verdict == contract.VERDICT_PASS):
        raise Refused(
            f"ONNX and torch differ by {difference:.2g}, more than {PARITY_MAX:g}",
            remedy="train again; the export lost precision",
        )


def require_lineage(client: MlflowClient, run_id: str, model_uri: str, model_digest: str) -> None:
    """Refuse a run that lacks a lineage tag, or that trained or logged another model than the one named."""
    logged = client.get_logged_model(model_uri.removeprefix("models:/"))
    if logged.source_run_id != run_id:
        raise Refused(
            f"model {model_uri} was logged by run {logged.source_run_id}, not by {run_id}",
            remedy="give run-id and model-uri of the same training",
        )
    tags = client.get_run(run_id).data.tags
    missing = [tag for tag in contract.LINEAGE_TAGS if not tags.get(tag)]
    if missing:
        raise Refused(
            f"run {run_id} lacks lineage tag {', '.join(missing)}", remedy="train again with this catalog's pinn-train"
        )
    if tags[contract.TAG_MODEL_DIGEST] != model_digest:
        raise Refused(
            f"run {run_id} trained model {tags[contract.TAG_MODEL_DIGEST][:12]}, not {model_digest[:12]}",
            remedy="give run-id and model-digest of the same training",
        )


def against_champion(graph: Graph, client: MlflowClient, env: SimpleNamespace, dataset: Dataset) -> dict[str, Any]:
    """Evaluate the champion of the same problem on the candidate's held-out rows, paired.

    Returns keys `champion` (None: there is none), `improvement` (None likewise), `same`, `misfits` (its normalised
    misfits or None).
    """
    import numpy as np

    from isotherm.pinn import measure

    found = champions.find(client, env.model_name)
    nothing = {
        "champion": None,
        "improvement": None,
        "same": False,
        "misfits": None,
        "version": found.version if found else "",
    }
    if found is None or found.problem != dataset.problem.tag:
        return nothing
    if found.model_digest == env.model_digest:
        return {
            **nothing,
            "champion": {"version": found.version, "model_digest": found.model_digest},
            "improvement": 0.0,
            "same": True,
        }
    with tempfile.TemporaryDirectory() as folder:
        other = open_bundle(champions.fetch(client, found, Path(folder)), found.model_digest)
        misfits = measure.normalised_misfit(other, dataset.problem, dataset.validation)
    theirs = float(np.mean(misfits**2))
    ours = float(np.mean(measure.normalised_misfit(graph, dataset.problem, dataset.validation) ** 2))
    return {
        "champion": {"version": found.version, "model_digest": found.model_digest, "misfit": gate.finite(theirs)},
        "improvement": gate.relative_improvement(theirs, ours),
        "same": False,
        "misfits": misfits,
        "version": found.version,
    }


def measured(graph: Graph, dataset: Dataset, training: Mapping[str, Any]) -> dict[str, float | None]:
    """Measure the candidate's served graph; `a_spread` comes from the training's own restarts."""
    import numpy as np

    from isotherm.pinn import measure

    problem = dataset.problem
    misfit = float(np.mean(measure.normalised_misfit(graph, problem, dataset.validation) ** 2))
    return {
        **measure.physics(graph, problem),
        contract.VAL_MISFIT: misfit,
        "u_rms": float(np.sqrt(misfit)) * (problem.sigma or 1.0),
        contract.A_SPREAD: training.get("metrics", {}).get(contract.A_SPREAD),
        **measure.truth_errors(graph, problem),
    }


def draw(
    graph: Graph, dataset: Dataset, metrics: Mapping[str, float | None], champion_misfits: Array | None, reports: Path
) -> list[dict[str, str]]:
    """Draw what the verdict rests on."""
    from isotherm.pinn import measure, plots

    folder = reports / "pictures"
    ours = measure.normalised_misfit(graph, dataset.problem, dataset.validation)
    picture = plots.misfits(folder / "heldout_misfit", ours, champion_misfits)
    caption = f"Mean square {metrics[contract.VAL_MISFIT]:.3f} on {len(ours)} held-out measurements; 1 is noise alone."
    return [{"title": "Held-out misfit", "file": str(picture.relative_to(reports)), "caption": caption}]


def evaluate(env: SimpleNamespace, data: Path, model: Path, reports: Path, credentials: Path | None) -> dict[str, Any]:
    """Do the whole evaluation and return the report; raises `Refused` where the model cannot be trusted at all."""
    from isotherm.data import schema
    from isotherm.pinn import measure
    from isotherm.registry.client import answers, connect

    dataset, bundle = schema.load(data / env.dataset_hash), model / "bundle"
    graph = open_bundle(bundle, env.model_digest)
    training = tekton.read_report(reports / contract.REPORT_TRAIN) or {}
    client = connect(env.mlflow_uri, credentials)
    with answers(env.mlflow_uri):
        require_lineage(client, env.run_id, env.model_uri, env.model_digest)
        compared = against_champion(graph, client, env, dataset)
    metrics = measured(graph, dataset, training)
    difference = parity(bundle, graph, measure.heldout_points(dataset.problem, 512))
    explicit = {"pde_loss_max": env.pde_loss_max, "val_residual_max": env.val_residual_max}
    checks = gate.absolute_checks(
        metrics, gate.limits(explicit, dataset.problem.gate.model_dump()), sigma_known=dataset.problem.sigma is not None
    )
    verdict, reason = gate.judge(
        checks, improvement=compared["improvement"], min_improvement=env.min_improvement, same_digest=compared["same"]
    )
    require_parity(difference, verdict)
    with answers(env.mlflow_uri):
        client.set_tag(env.run_id, "verdict", verdict)
        client.set_tag(env.run_id, "gate_reason", reason)
    return {
        "verdict": verdict,
        "reason": reason,
        "checks": [check.as_dict() for check in checks],
        "champion": compared["champion"],
        "champion_version": compared["version"],
        "improvement": gate.finite(compared["improvement"]),
        "min_improvement": env.min_improvement,
        "metrics": {name: gate.finite(value) for name, value in {**metrics, "onnx_parity": difference}.items()},
        "heldout_rows": len(dataset.validation.u),
        "pictures": draw(graph, dataset, metrics, compared["misfits"], reports),
    }


def run() -> None:
    """Read the inputs, evaluate, write the report, and last the results."""
    with tekton.results(
        verdict=contract.VERDICT_FAIL, reason="not-evaluated", champion_version="", report=""
    ) as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_EVALUATION, "evaluate-metrics") as report:
            env = tekton.environment(
                dataset_hash=str, run_id=str, model_uri=str, model_digest=str, model_name=str, mlflow_uri=str,
                pde_loss_max=float | None, val_residual_max=float | None, min_improvement=float,
                data_dir=Path, model_dir=Path,
            )  # fmt: skip
            folder = os.environ.get("MLFLOW_CREDENTIALS_DIR", "")
            credentials = Path(folder) if folder else None
            report.update(evaluate(env, env.data_dir, env.model_dir, place.reports_dir, credentials))
        results.verdict, results.reason = report["verdict"], report["reason"]
        results.champion_version, results.report = report["champion_version"], contract.REPORT_EVALUATION
        for check in report["checks"]:
            word = "pass" if check["passed"] else "FAIL"
            print(f"{word}  {check['name']:<13} {check['value']!s:<24} limit {check['limit']} ({check['source']})")
        print(f"verdict {report['verdict']}: {report['reason']}{_ADVICE.get(report['verdict'], '')}")


def main() -> int:
    """Run as the Task's step."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
