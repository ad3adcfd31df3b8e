"""The laws of the equation: derivatives equal automatic differentiation, exact solutions leave no residual."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.physics import extension, heat, jets, reference, setting, sources, tables
from isotherm.physics.problem import Problem

LOWER, UPPER = torch.tensor([-1.0, -2.0, 0.0]).double(), torch.tensor([1.0, 1.0, 0.7]).double()

HEATINV = """
schema_version: 1
id: heatinv
title: PINNacle HeatInv
units: {x: "1", t: "1", u: "1", a: "1"}
domain: {x: [-1, 1], y: [-1, 1], t: [0, 1]}
scales: {length: 1.0, time: 1.0, u: 1.0, u_offset: 0.0}
sigma: 0.1
source: {kind: builtin, name: heatinv}
a_boundary: {kind: builtin, name: heatinv}
a_model: {kind: field}
reference_a: {kind: builtin, name: heatinv}
reference_u: {kind: builtin, name: heatinv}
"""


def points(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return LOWER + (UPPER - LOWER) * torch.rand(n, 3, generator=generator, dtype=torch.float64)


def random_layers(widths: list[int], seed: int) -> list[jets.Layer]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(o, i, generator=g, dtype=torch.float64), torch.randn(o, generator=g, dtype=torch.float64))
        for i, o in pairwise(widths)
    ]


def by_autograd(function, at: torch.Tensor) -> jets.Jet:
    """First derivatives and the Laplacian of function(points) [n], by nested reverse mode."""
    at = at.clone().requires_grad_(True)
    value = function(at)
    (grad,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    second = [torch.autograd.grad(grad[:, k].sum(), at, retain_graph=True, allow_unused=True)[0] for k in (0, 1)]
    lap = sum(torch.zeros_like(value) if d is None else d[:, k] for k, d in enumerate(second))
    return jets.Jet(value, grad[:, 0], grad[:, 1], grad[:, 2], lap)


def assert_equal_jets(left: jets.Jet, right: jets.Jet, channels: str = "v x y t lap", atol: float = 1e-10) -> None:
    for name in channels.split():
        torch.testing.assert_close(getattr(left, name), getattr(right, name), atol=atol, rtol=1e-9, msg=name)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_forward_channels_equal_nested_autograd(seed: int, hidden: list[int]) -> None:
    layers, at = random_layers([3, *hidden, 1], seed), points(9, seed)
    forward = jets.network(layers, jets.coordinates(at, LOWER, UPPER))
    nested = by_autograd(lambda p: jets.network(layers, jets.coordinates(p, LOWER, UPPER, "")).v, at)
    assert_equal_jets(forward, nested, atol=1e-8)


def test_product_sum_and_exponential_of_jets_equal_autograd() -> None:
    p_layers, q_layers, at = random_layers([3, 4, 1], 1), random_layers([3, 4, 1], 2), points(20)

    def both(at: torch.Tensor, channels: str) -> jets.Jet:
        c = jets.coordinates(at, LOWER, UPPER, channels)
        p, q = jets.network(p_layers, c), jets.network(q_layers, c)
        return jets.add(jets.exp(jets.multiply(p, q)), p)

    assert_equal_jets(both(at, "xytl"), by_autograd(lambda a: both(a, "").v, at), atol=1e-6)


@pytest.mark.parametrize("name", ["heatinv"])
def test_closed_forms_have_the_derivatives_they_state(name: str) -> None:
    at = points(50)
    u, a = reference.U[name], reference.A[name]
    assert_equal_jets(u(*at.T), by_autograd(lambda p: u(*p.T).v, at))
    static = by_autograd(lambda p: a(p[:, 0], p[:, 1]).v + 0 * p[:, 2], at)
    assert_equal_jets(a(at[:, 0], at[:, 1]), static, "v x y lap")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_exact_solution_leaves_no_residual(seed: int) -> None:
    at = points(40, seed)
    u, a, f = (reference.heatinv_u(*at.T), reference.heatinv_a(*at.T[:2]), reference.heatinv_f(*at.T))
    assert heat.pde_residual(u, a, f).abs().max() < 1e-12
    # A wrong diffusivity does leave one.
    assert heat.pde_residual(u, jets.add(a, jets.Jet(*(0.1 + 0 * c for c in a[:3]))), f).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_scaling_a_problem_keeps_its_solution_a_solution(scale: float) -> None:
    # Same nondimensional box, units stretched: the reference forms are physical, so the problem is another one, but
    # u, a and f are scaled together and the nondimensional residual stays zero.
    problem = Problem.parse(
        HEATINV.replace("length: 1.0, time: 1.0, u: 1.0", f"length: {scale}, time: {2 * scale}, u: 0.5")
    )
    world = setting.from_problem(problem)
    at = points(30) / torch.tensor([scale, scale, 2 * scale])
    a = world._a_field(problem.reference_a)(at[:, 0], at[:, 1])
    u = by_autograd(world.reference_u, at)
    assert world.source is not None
    assert heat.pde_residual(u, a, world.source(at, u, {})).abs().max() < 1e-10


def edge_field(x: torch.Tensor, y: torch.Tensor) -> jets.Jet:
    return jets.Jet(torch.exp(x) * (2 + y), torch.exp(x) * (2 + y), torch.exp(x))


def test_the_extension_meets_the_boundary_and_states_its_own_slope() -> None:
    at = points(200)
    sides = [(0, LOWER), (0, UPPER), (1, LOWER), (1, UPPER)]
    for axis, bound in sides:
        on = at.clone()
        on[:, axis] = bound[axis]
        patch = extension.transfinite(edge_field, on, LOWER, UPPER)
        torch.testing.assert_close(patch.v, edge_field(on[:, 0], on[:, 1]).v)
        assert extension.bubble(on, LOWER, UPPER).v.abs().max() < 1e-15
    for field in (
        lambda p: extension.transfinite(edge_field, p, LOWER, UPPER),
        lambda p: extension.bubble(p, LOWER, UPPER),
    ):
        assert_equal_jets(field(at), by_autograd(lambda p, field=field: field(p).v + 0 * p[:, 2], at), "v x y")


def closure(b: float = 1.2, s: float = 0.28) -> tuple[sources.AreaMeanClosure, dict[str, torch.Tensor]]:
    t = torch.linspace(0, 1, 51).double()
    spot = sources.AreaMeanClosure(t, t**2, 2 * t, 0 * t - 0.3, (0.1, -0.1), (-1.0, -0.8), (1.0, 0.8), {})
    return spot, {"b": torch.tensor(b).double(), "s": torch.tensor(s).double()}


@settings(max_examples=15, deadline=None)
@given(st.floats(0.0, 5.0), st.floats(0.1, 2.0), st.floats(0.05, 0.95))
def test_the_closure_feeds_the_plate_the_heat_it_was_seen_to_gain(b: float, s: float, time: float) -> None:
    # Over the plate, mean f = U' wherever u has the mean U: here u = U everywhere.
    f, nuisance = closure(b, s)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x, y = np.meshgrid(nodes, 0.8 * nodes, indexing="ij")
    at = torch.from_numpy(np.stack([x.ravel(), y.ravel(), np.full(x.size, time)], axis=1))
    mean = tables.linear(f.times, f.mean, at[:, 2])
    value = f(at, jets.Jet(mean), nuisance)
    integral = float((torch.from_numpy(np.outer(weights, weights).ravel()) * value).sum() / 4)
    assert integral == pytest.approx(float(tables.linear(f.times, f.mean_rate, at[:1, 2])), abs=1e-6)


def test_tables_reproduce_linear_functions_and_hold_their_end_values() -> None:
    axes = [torch.tensor(n).double() for n in ([0.0, 0.2, 1.0], [-1.0, 0.0, 0.5, 1.0], [0.0, 2.0])]
    grid = torch.meshgrid(*axes, indexing="ij")
    values = 1 + 2 * grid[0] - grid[1] + 3 * grid[2]
    at = torch.tensor([[0.1, -0.5, 1.3], [0.9, 0.9, 0.1], [1.0, 1.0, 2.0]]).double()
    torch.testing.assert_close(tables.trilinear(axes, values, at), 1 + 2 * at[:, 0] - at[:, 1] + 3 * at[:, 2])
    outside = torch.tensor([[5.0, 5.0, 9.0]]).double()
    torch.testing.assert_close(tables.trilinear(axes, values, outside), torch.tensor([1 + 2 - 1 + 6.0]).double())


def test_boundary_and_initial_residuals_vanish_on_their_conditions() -> None:
    at = points(10)
    normal = torch.tensor([[1.0, 0.0]]).double().expand(10, 2)
    u = jets.Jet(at[:, 1], 0 * at[:, 0], 1 + 0 * at[:, 0])  # u = y: nothing crosses x = const
    assert heat.insulated_residual(u, normal).abs().max() == 0
    assert heat.insulated_residual(u, normal.flip(1)).abs().min() == 1
    assert heat.dirichlet_residual(u, at[:, 1]).abs().max() == heat.initial_residual(u, at[:, 1]).abs().max() == 0


def test_equal_seeds_give_equal_measurements() -> None:
    at = points(500).numpy()
    first, again, other = (reference.heatinv_measurements(at, 0.1, seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    exact = np.exp(-at[:, 2]) * np.sin(math.pi * at[:, 0]) * np.sin(math.pi * at[:, 1])
    assert np.std(first - exact) == pytest.approx(0.1, rel=0.15)
