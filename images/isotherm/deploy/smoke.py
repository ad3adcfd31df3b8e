"""Predictions of every endpoint against those that the gate evaluated: the served graph is the judged model.

Reads   the bundle's samples (points in physical units) and `POST /v2/models/<name>/infer` of each endpoint
Writes  nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isotherm import contract, tekton
from isotherm.deploy import answers
from isotherm.deploy.readiness import MODEL_PATH, Endpoint

if TYPE_CHECKING:
    from isotherm.bundle import Samples

RELATIVE_TOLERANCE = 1e-6
TIMEOUT_SECONDS = 20.0


def check(found: Sequence[Endpoint], samples: Samples, digest: str) -> dict[str, float]:
    """Ask every endpoint for the samples' `u` and `a`; return the number of points and the largest difference.

    A difference is measured against the largest value of its field. Raises `tekton.Refused` where it exceeds 1e-6, or
    where an endpoint answers with an error or another digest; `tekton.Unavailable` where it does not answer.
    """
    expected = {contract.ONNX_U: list(samples.u), contract.ONNX_A: list(samples.a)}
    worst = 0.0
    for endpoint in found:
        answered = _ask(endpoint, samples, list(expected), digest)
        for field, values in expected.items():
            difference = _difference(endpoint, field, answered.get(field), values)
            worst = max(worst, difference)
    return {"points": len(samples.points), "endpoints": len(found), "max_abs_difference": worst}


def _ask(endpoint: Endpoint, samples: Samples, fields: Sequence[str], digest: str) -> Mapping[str, list[float]]:
    import httpx

    points = [number for point in samples.points for number in point]
    shape = [len(samples.points), 3]
    body = {
        "inputs": [{"name": contract.ONNX_POINTS, "shape": shape, "datatype": "FP64", "data": points}],
        "outputs": [{"name": field} for field in fields],
    }
    try:
        headers = {contract.HEADER_PROBE: "kserve-deploy"}
        with httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = answers.request(client, "POST", f"{endpoint.url}{MODEL_PATH}/infer", json=body)
    except httpx.HTTPError as error:
        raise tekton.Unavailable(
            f"endpoint {endpoint.url} did not answer the smoke test ({error or type(error).__name__})",
            remedy="look at the predictor's log, then run again",
        ) from error
    served = answer.headers.get(contract.HEADER_MODEL_DIGEST, "")
    if answer.status_code != 200 or served != digest:
        text = " ".join(answer.text.split())[:200]
        raise tekton.Refused(
            f"endpoint {endpoint.url} fails the smoke test: status {answer.status_code}, digest "
            f"{served[:12] or '(none)'}, {text}",
            remedy="traffic stays where it is; look at the predictor's log",
        )
    outputs: list[dict[str, Any]] = answer.json().get("outputs", [])
    return {output["name"]: output["data"] for output in outputs}


def _difference(endpoint: Endpoint, field: str, answered: list[float] | None, expected: Sequence[float]) -> float:
    if answered is None or len(answered) != len(expected):
        raise tekton.Refused(
            f"endpoint {endpoint.url} answers no {field} for the {len(expected)} sample points",
            remedy="deploy a predictor image of this version of the catalog",
        )
    difference = max(abs(got - want) for got, want in zip(answered, expected, strict=True))
    limit = RELATIVE_TOLERANCE * max(abs(want) for want in expected)
    if not difference <= limit:  # a NaN compares false, and must fail
        raise tekton.Refused(
            f"endpoint {endpoint.url} predicts {field} {difference:.3g} away from the evaluated model "
            f"(limit {limit:.3g})",
            remedy="traffic stays where it is; check that image and model belong together",
        )
    return difference
