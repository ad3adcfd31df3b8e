"""The PINN: the fields u, a, f and the equation's residual as functions of one parameter vector, nondimensional.

u   tanh network of (x, y, t)
a   known on the edges: extension + bubble * N (`a_exp`: extension * exp(bubble * N)), so that edge values hold exactly;
    else exp(c + N); or one number exp(c). N is a tanh network or a polynomial of (x, y)
f   the problem's source, or, when inferred, a tanh network of (x, y): a source that does not change in time
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isotherm.physics import extension, heat, jets
from isotherm.physics.jets import Jet
from isotherm.physics.setting import Setting
from isotherm.pinn.jacobian import Tape
from isotherm.pinn.networks import Architecture, Layout, Params, layers, mlp_shapes, polynomial_features

ALL = "xytl"


@dataclass(frozen=True)
class Sites:
    """Points [n, 3] with everything about them that does not change in training."""

    points: Tensor
    u_input: Jet
    a_input: Jet
    edge: Jet | None  # the extension of a's boundary values
    bubble: Jet | None
    f: Tensor | None  # the source, where it is known without u


class Model:
    """Fields of one problem in one architecture. Methods take parameters by name and sites, and return jets or [n]."""

    def __init__(self, setting: Setting, architecture: Architecture) -> None:
        self.setting, self.architecture = setting, architecture
        shapes = mlp_shapes("u", 3, architecture.u_hidden)
        if architecture.a_model == "nn":
            shapes |= mlp_shapes("a", 2, architecture.a_hidden)
        elif architecture.a_model == "poly":
            terms = (architecture.a_degree + 1) * (architecture.a_degree + 2) // 2 - 1
            shapes |= mlp_shapes("a", terms, ())
        if setting.a_edge is None or architecture.a_model == "constant":
            shapes |= {"a.log": (1,)}
        if architecture.infer_f:
            shapes |= mlp_shapes("f", 2, architecture.f_hidden)
        self.priors = {} if architecture.infer_f or setting.source is None else dict(setting.source.priors)
        self.fitted = [name for name, prior in self.priors.items() if prior.relative_sigma > 0]
        shapes |= {f"nuisance.{name}": (1,) for name in self.fitted}
        self.layout = Layout(shapes)

    def to(self, device: torch.device) -> Model:
        """Return the same model for points and parameters on a device."""
        return Model(self.setting.to(device), self.architecture)

    def initial(self, seed: int) -> Tensor:
        """Draw starting parameters [size]; a polynomial starts at zero, so that `a` starts as its edge values say."""
        theta = self.layout.initial(seed)
        if self.architecture.a_model == "poly":
            theta[self.layout.columns["a.0.weight"]] = 0
        return theta

    def sites(self, points: Tensor, channels: str = ALL) -> Sites:
        """Prepare points [n, 3] for evaluation with the derivatives of u named in `channels`."""
        lower, upper, a_edge = self.setting.lower, self.setting.upper, self.setting.a_edge
        xy = jets.coordinates(points[:, :2], lower[:2], upper[:2], "xy")
        a_input = polynomial_features(xy, self.architecture.a_degree) if self.architecture.a_model == "poly" else xy
        source, known = self.setting.source, None
        if source is not None and not source.priors and not self.architecture.infer_f:
            known = source(points, Jet(points[:, 0]), {})
        return Sites(
            points,
            jets.coordinates(points, lower, upper, channels),
            a_input,
            None if a_edge is None else extension.transfinite(a_edge, points, lower, upper),
            None if a_edge is None else extension.bubble(points, lower, upper),
            known,
        )

    def u(self, params: Params, sites: Sites, tape: Tape | None = None) -> Jet:
        """Temperature, with the channels that `sites` was prepared for."""
        return jets.network(layers(params, "u"), sites.u_input, tape.record("u") if tape else None)

    def a(self, params: Params, sites: Sites, tape: Tape | None = None) -> Jet:
        """Diffusivity and its gradient: channels v, x, y."""
        zero = torch.zeros_like(sites.points[:, 0])
        free = Jet(zero, zero, zero)
        if self.architecture.a_model != "constant":
            free = jets.network(layers(params, "a"), sites.a_input, tape.record("a") if tape else None)
        if "a.log" in params:
            log = params["a.log"]
            spread = tape.scalar("a.log", log, len(zero)) if tape else log
            return jets.exp(free._replace(v=free.v + spread))
        if sites.edge is None or sites.bubble is None:
            raise ValueError("the sites were prepared for another model")
        inside = jets.multiply(sites.bubble, free)
        return jets.multiply(sites.edge, jets.exp(inside)) if self.architecture.a_exp else jets.add(sites.edge, inside)

    def nuisance(self, params: Params, rows: int, tape: Tape | None = None) -> dict[str, Tensor]:
        """Nuisance parameters of the source, per row [rows] under a tape, else one number each."""
        values: dict[str, Tensor] = {}
        median = torch.zeros(1, dtype=torch.float64, device=self.setting.lower.device)
        for name, prior in self.priors.items():
            z = params.get(f"nuisance.{name}", median)
            fitted = tape is not None and name in self.fitted
            values[name] = prior.at(tape.scalar(f"nuisance.{name}", z, rows) if tape and fitted else z)
        return values

    def f(self, params: Params, sites: Sites, u: Jet, tape: Tape | None = None) -> Tensor:
        """Source [n]: inferred, known beforehand, or closed with u. Raises ValueError where it is unknown."""
        if self.architecture.infer_f:
            xy = jets.coordinates(sites.points[:, :2], self.setting.lower[:2], self.setting.upper[:2], "")
            return jets.network(layers(params, "f"), xy, tape.record("f") if tape else None).v
        if sites.f is not None:
            return sites.f
        if self.setting.source is None:
            raise ValueError("the source is unknown: infer it, or give it")
        return self.setting.source(sites.points, u, self.nuisance(params, len(sites.points), tape))

    def residual(self, params: Params, sites: Sites, tape: Tape | None = None) -> Tensor:
        """R = u_t - div(a grad u) - f at sites prepared with all channels."""
        u = self.u(params, sites, tape)
        return heat.pde_residual(u, self.a(params, sites, tape), self.f(params, sites, u, tape))
