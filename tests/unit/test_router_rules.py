"""The router's weight rules against numbers from OpenShift's own formula, and the laws they obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm_local import router

NAMES = ("a", "b", "c", "d")
weights_of = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 256), min_size=1)
endpoints_of = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 40))


# asked % for the candidate, endpoints (stable, candidate) -> weight per endpoint and share in % really served.
@pytest.mark.parametrize(
    ("asked", "stable", "candidate", "each", "share"),
    [
        (1, 1, 1, (256, 2), 0.78),
        (1, 10, 1, (256, 25), 0.97),
        (1, 1, 4, (256, 1), 1.54),
        (2, 1, 1, (256, 5), 1.92),
        (2, 10, 1, (256, 52), 1.99),
        (2, 1, 4, (256, 1), 1.54),
        (5, 1, 1, (256, 13), 4.83),
        (5, 10, 1, (256, 134), 4.97),
        (5, 1, 4, (256, 3), 4.48),
        (10, 1, 1, (256, 28), 9.86),
        (10, 10, 1, (230, 256), 10.02),
        (50, 1, 1, (256, 256), 50.0),
        (50, 3, 1, (85, 256), 50.10),
        (99, 1, 1, (2, 256), 99.22),
    ],
)
def test_share_served_is_the_routers_not_the_one_asked(
    asked: int, stable: int, candidate: int, each: tuple[int, int], share: float
) -> None:
    weights, endpoints = {"blue": 100 - asked, "green": asked}, {"blue": stable, "green": candidate}
    assert router.endpoint_weights(weights, endpoints) == {"blue": each[0], "green": each[1]}
    assert round(100 * router.achieved_share(weights, endpoints)["green"], 2) == share


@pytest.mark.parametrize(
    ("weights", "endpoints", "expected"),
    [
        pytest.param({"blue": 100, "green": 0}, {"blue": 3, "green": 2}, {"blue": 1, "green": 0}, id="one active"),
        pytest.param({"blue": 90, "green": 10}, {"blue": 0, "green": 1}, {"green": 1}, id="live one has no endpoints"),
        pytest.param({"blue": 90, "green": 10}, {}, {}, id="no endpoints at all"),
        pytest.param({"blue": 0, "green": 0}, {"blue": 1, "green": 1}, {"blue": 0, "green": 0}, id="all weights 0"),
        pytest.param({"blue": 1000, "green": -5}, {"blue": 1, "green": 1}, {"blue": 1, "green": 0}, id="clamped"),
        pytest.param({"a": 20, "b": 10}, {"a": 2, "b": 4}, {"a": 256, "b": 64}, id="the router's own example"),
        pytest.param({"a": 1, "b": 256, "c": 0}, {"a": 40, "b": 1, "c": 1}, {"a": 1, "b": 256, "c": 0}, id="floor 1"),
    ],
)
def test_weight_of_each_endpoint(weights: dict[str, int], endpoints: dict[str, int], expected: dict[str, int]) -> None:
    assert router.endpoint_weights(weights, endpoints) == expected


@pytest.mark.parametrize(
    ("weights", "annotation", "expected"),
    [
        ({"blue": 100, "green": 0}, None, "random"),
        ({"blue": 99, "green": 1}, None, "roundrobin"),
        ({"blue": 100, "green": 0}, "roundrobin", "roundrobin"),
        ({"blue": 99, "green": 1}, "leastconn", "leastconn"),
        ({"blue": 99, "green": 1}, "fastest", "roundrobin"),
    ],
)
def test_balance_algorithm(weights: dict[str, int], annotation: str | None, expected: str) -> None:
    annotations = {} if annotation is None else {router.ANNOTATION_BALANCE: annotation}
    assert router.balance(weights, annotations) == expected


@pytest.mark.parametrize(
    ("value", "enabled"), [(None, True), ("true", False), ("TRUE", False), ("1", False), ("no", True)]
)
def test_cookies_are_on_unless_disabled(value: str | None, enabled: bool) -> None:
    annotations = {} if value is None else {router.ANNOTATION_DISABLE_COOKIES: value}
    assert router.cookies_enabled(annotations) is enabled


def test_weights_of_a_route_default_to_1_and_the_last_mention_of_a_service_counts() -> None:
    spec = {
        "to": {"name": "blue"},
        "alternateBackends": [{"name": "green", "weight": 7}, {"name": "blue", "weight": 3}],
    }
    assert router.route_weights(spec) == {"blue": 3, "green": 7}
    assert router.route_weights({"to": {"name": "blue"}}) == {"blue": 1}


@given(weights_of, endpoints_of)
def test_shares_sum_to_one_or_nothing_is_served(weights: dict[str, int], endpoints: dict[str, int]) -> None:
    shares = router.achieved_share(weights, endpoints)
    served = any(weights[name] > 0 and endpoints.get(name, 0) > 0 for name in weights)
    assert set(shares) == set(weights)
    assert sum(shares.values()) == pytest.approx(1.0 if served else 0.0)


@given(weights_of, endpoints_of)
def test_only_services_with_weight_and_endpoints_get_requests(
    weights: dict[str, int], endpoints: dict[str, int]
) -> None:
    for name, share in router.achieved_share(weights, endpoints).items():
        assert (share > 0) == (weights[name] > 0 and endpoints.get(name, 0) > 0)


@given(weights_of, endpoints_of)
def test_endpoint_weights_stay_within_what_haproxy_takes(weights: dict[str, int], endpoints: dict[str, int]) -> None:
    each = router.endpoint_weights(weights, endpoints)
    assert all(0 <= weight <= 256 for weight in each.values())
    active = [name for name in each if weights[name] > 0]
    if len(active) > 1:
        assert max(each.values()) >= 255  # scaled to the largest, in single precision


@given(st.integers(0, 255), st.integers(1, 256), st.integers(1, 20), st.integers(1, 20))
def test_share_falls_by_no_more_than_a_rounding_when_its_weight_grows(
    weight: int, other: int, stable: int, candidate: int
) -> None:
    endpoints = {"blue": stable, "green": candidate}
    less = router.achieved_share({"blue": other, "green": weight}, endpoints)["green"]
    more = router.achieved_share({"blue": other, "green": weight + 1}, endpoints)["green"]
    # In single precision the largest weight is 255 as often as 256: odds change by 1/256, a share by a quarter of it.
    assert more >= less - 0.25 / 255
