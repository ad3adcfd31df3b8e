"""What stands between an endpoint and the model: ask, count, log; and who answers (version, digest, data)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from isotherm import contract, tekton
from isotherm.predictor.metrics import PROBING, Metrics
from isotherm.predictor.model import Floats, HeatModel, NotFinite
from isotherm.predictor.payload import Question, Refusal
from isotherm.predictor.prediction_log import PredictionLog

# Beyond this many points (a few ms) the graph runs in a thread, so that small requests do not wait behind it.
INLINE_POINTS = 5000


@dataclass(frozen=True)
class Identity:
    """What every answer names: the model as it was deployed."""

    model_name: str
    model_version: str
    model_digest: str
    data_version: str
    track: str


class ModelFault(RuntimeError):
    """The model fails on a point it must be able to answer: the server's fault, a 500."""


class Service:
    """One model version answering questions."""

    def __init__(self, model: HeatModel, identity: Identity, metrics: Metrics, log: PredictionLog | None) -> None:
        self.model = model
        self.identity = identity
        self._metrics = metrics
        self._log = log

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the outputs that a client may ask for."""
        return (contract.ONNX_U, contract.ONNX_A, *((contract.ONNX_RESIDUAL,) if self.model.has_residual else ()))

    async def predict(self, question: Question) -> dict[str, Floats]:
        """Answer the fields asked for, arrays [n]; counts and logs the points.

        Raises `Refusal` for what the model cannot answer, `ModelFault` where it is NaN inside its domain.
        """
        self._check(question)
        try:
            if len(question.points) > INLINE_POINTS:
                answer = await asyncio.to_thread(self.model.answer, question.points, question.source)
            else:
                answer = self.model.answer(question.points, question.source)
        except NotFinite as error:
            if error.inside:
                raise ModelFault(f"{error}, which lies inside its domain") from error
            raise Refusal(f"{error}: it lies too far outside the domain") from error
        self._metrics.points(answer)
        if self._log and not PROBING.get():
            self._log.put(datetime.now(UTC), answer)
        return {name: getattr(answer, name) for name in question.fields}

    def _check(self, question: Question) -> None:
        if question.source is not None and not self.model.needs_source:
            raise Refusal("this model knows its source f: leave f out")
        if contract.ONNX_RESIDUAL in question.fields:
            if not self.model.has_residual:
                raise Refusal("this model gives no residual: its source f is unknown")
            if self.model.needs_source and question.source is None:
                raise Refusal("the residual needs f at each point: this model does not know its source")

    def domain(self) -> dict[str, object]:
        """Return what may be asked: the problem, and the intervals of x, y and t in its units."""
        metadata = self.model.metadata
        return {"problem": metadata.problem, **metadata.domain.model_dump(mode="json")}

    def lineage(self) -> dict[str, str]:
        """Return the keys that a temperature answer carries beside the value."""
        return {
            "model_version": self.identity.model_version,
            "data_version": self.identity.data_version,
            "timestamp": tekton.rfc3339(tekton.utcnow()),
        }
