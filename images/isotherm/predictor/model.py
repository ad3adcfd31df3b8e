"""The heat model as it answers: one ONNX graph in float64, and what its answers say about the points asked.

Inputs: points [n, 3] (x, y, t, physical units), and the source f [n] where the graph does not know it.
Outputs: u and a in physical units, the nondimensional PDE residual, and per point whether it lies outside the domain,
its normalised squared residual and whether it violates the boundary condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isotherm import contract, tekton
from isotherm.bundle import Bundle, Domain

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

EDGE_SHARE = 0.01  # a point is near an edge within this share of the domain's width
VIOLATION_FACTOR = 3.0  # times the validated boundary residual
SAMPLE_TOLERANCE = 1e-6  # relative to the field's largest sample: parity of the graph with the trained model
_ROUNDING = 1e-9  # of a width: a point computed onto the edge is inside


class NotFinite(ValueError):
    """The graph answered NaN or infinity for a row."""

    def __init__(self, row: int, *, inside: bool) -> None:
        super().__init__(f"the model has no finite answer for point {row}")
        self.row = row
        self.inside = inside


@dataclass(frozen=True)
class Answer:
    """What the model says at n points; arrays have shape [n].

    residual and r2 (normalised residual squared) are NaN where f is unknown; violation is NaN away from the edges,
    else 0 or 1.
    """

    points: Floats
    u: Floats
    a: Floats
    residual: Floats
    r2: Floats
    outside: Flags
    violation: Floats


class HeatModel:
    """An ONNX Runtime session on a verified bundle; safe to call from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the graph and make it repeat its own samples; raises `tekton.Refused` where it cannot."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # more pods, not more threads, carry more requests
        )
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            what = f"{contract.MODEL_ONNX} does not load in ONNX Runtime ({' '.join(str(error).split())[:300]})"
            raise tekton.Refused(what, remedy="export and register the model again") from error
        self.metadata = bundle.metadata
        self._check_signature()
        inputs = {tensor.name for tensor in self._session.get_inputs()}
        outputs = {tensor.name for tensor in self._session.get_outputs()}
        self.needs_source = contract.ONNX_SOURCE in inputs
        self.has_residual = contract.ONNX_RESIDUAL in outputs
        validated = bundle.metadata.validated
        self.has_boundary = contract.ONNX_BOUNDARY_RESIDUAL in outputs and validated.boundary_rms is not None
        self._check_samples()

    def _check_signature(self) -> None:
        inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in self._session.get_inputs()}
        outputs = {tensor.name: tensor.type for tensor in self._session.get_outputs()}
        kind, shape = inputs.get(contract.ONNX_POINTS, ("", []))
        problems = {
            f"input `{contract.ONNX_POINTS}` is not float64 [n, 3]": kind == "tensor(double)"
            and list(shape[1:]) == [3],
            "an input has an unknown name": inputs.keys() <= {contract.ONNX_POINTS, contract.ONNX_SOURCE},
            "an input is not float64": all(kind == "tensor(double)" for kind, _ in inputs.values()),
            "an output is not float64": all(kind == "tensor(double)" for kind in outputs.values()),
            "`u` or `a` is missing": {contract.ONNX_U, contract.ONNX_A} <= outputs.keys(),
        }
        for problem, holds in problems.items():
            if not holds:
                raise tekton.Refused(
                    f"{contract.MODEL_ONNX}: {problem}", remedy="export the model with this version of Isotherm"
                )

    def _check_samples(self) -> None:
        samples = self.metadata.samples
        try:
            answer = self.answer(np.array(samples.points), None)
        except NotFinite as error:
            what = f"{contract.MODEL_ONNX}: {error} of the samples in {contract.MODEL_METADATA}"
            raise tekton.Refused(what, remedy="train and register the model again") from error
        expected = {contract.ONNX_U: samples.u, contract.ONNX_A: samples.a}
        if self.has_residual and not self.needs_source and samples.residual is not None:
            expected[contract.ONNX_RESIDUAL] = samples.residual
        for name, values in expected.items():
            actual, wanted = getattr(answer, name), np.array(values)
            # The residual is a difference of terms of order one; u and a have the size that their units give them.
            largest = float(np.abs(wanted).max(initial=0.0))
            scale = max(1.0, largest) if name == contract.ONNX_RESIDUAL else largest or 1.0
            if actual.shape != wanted.shape or float(np.abs(actual - wanted).max()) > SAMPLE_TOLERANCE * scale:
                what = f"{contract.MODEL_ONNX} does not repeat the samples of `{name}` in {contract.MODEL_METADATA}"
                raise tekton.Refused(what, remedy="export and register the model again")

    def answer(self, points: Floats, source: Floats | None) -> Answer:
        """Evaluate the graph at points [n, 3]; `source` [n] is f there, where the graph asks for it.

        Raises `NotFinite` for the first row whose answer is NaN or infinite.
        """
        with_residual = self.has_residual and (not self.needs_source or source is not None)
        names = [contract.ONNX_U, contract.ONNX_A]
        names += [contract.ONNX_RESIDUAL] if with_residual else []
        names += [contract.ONNX_BOUNDARY_RESIDUAL] if self.has_boundary else []
        feed = {contract.ONNX_POINTS: points}
        if self.needs_source:
            feed[contract.ONNX_SOURCE] = np.zeros(len(points)) if source is None else source
        values: dict[str, Floats] = dict(zip(names, self._session.run(names, feed), strict=True))

        unknown = np.full(len(points), np.nan)
        residual = values.get(contract.ONNX_RESIDUAL, unknown)
        with np.errstate(over="ignore"):
            r2 = residual**2 / self.metadata.validated.residual_denominator
        outside = _outside(points, self.metadata.domain)
        _require_finite([*values.values(), r2] if with_residual else list(values.values()), outside)
        violation = unknown
        if self.has_boundary:
            limit = VIOLATION_FACTOR * (self.metadata.validated.boundary_rms or 0.0)
            violated = (np.abs(values[contract.ONNX_BOUNDARY_RESIDUAL]) > limit).astype(np.float64)
            violation = np.where(_near_edge(points, self.metadata.domain) & ~outside, violated, np.nan)
        return Answer(points, values[contract.ONNX_U], values[contract.ONNX_A], residual, r2, outside, violation)


def _require_finite(values: list[Floats], outside: Flags) -> None:
    wrong = ~np.isfinite(values).all(axis=0)
    if wrong.any():
        row = int(wrong.argmax())
        raise NotFinite(row, inside=not outside[row])


def _outside(points: Floats, domain: Domain) -> Flags:
    low, high = np.array([domain.x, domain.y, domain.t]).T
    slack = _ROUNDING * (high - low)
    flags: Flags = ((points < low - slack) | (points > high + slack)).any(axis=1)
    return flags


def _near_edge(points: Floats, domain: Domain) -> Flags:
    low, high = np.array([domain.x, domain.y]).T
    distance = np.minimum(np.abs(points[:, :2] - low), np.abs(points[:, :2] - high))
    flags: Flags = (distance <= EDGE_SHARE * (high - low)).any(axis=1)
    return flags
