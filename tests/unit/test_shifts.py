"""Laws of a shift's decisions, and the rules for who may shift."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isotherm import contract, tekton
from isotherm.deploy import guard, preconditions, routes, shifts

DIGESTS = {"blue": "b" * 64, "green": "g" * 64}
NOW = "2026-01-01T00:00:00Z"
COLOURS = st.sampled_from(contract.COLOURS)
WEIGHTS = st.tuples(st.integers(0, 256), st.integers(0, 256)).map(
    lambda pair: dict(zip(contract.COLOURS, pair, strict=True))
)
HOLDERS = st.sampled_from(["run-1", "run-2", ""])
NOTES = st.fixed_dictionaries(
    {},
    optional={
        contract.ANNOTATION_SHIFT_HOLDER: HOLDERS,
        contract.ANNOTATION_SHIFT_TOKEN: st.sampled_from(["0", "3", "41", "x"]),
        contract.ANNOTATION_PREVIOUS: st.sampled_from([*contract.COLOURS, "red"]),
        contract.ANNOTATION_LIVE_DIGEST: st.sampled_from(list(DIGESTS.values())),
    },
)


def route(weights: routes.Weights, notes: dict[str, str] | None = None) -> routes.Route:
    return routes.Route("plate", "7", weights, notes or {}, "plate.example", True, "", False)


def planned(at: routes.Route, colour: str, weight: int, holder: str) -> shifts.Plan:
    return shifts.plan(at, shifts.target(at, colour, holder), weight, DIGESTS, holder, NOW)


def applied(plan: shifts.Plan, at: routes.Route) -> routes.Route:
    """The Route after the write."""
    notes = {key: value for key, value in {**at.annotations, **plan.annotations}.items() if value is not None}
    return route(plan.after, notes)


@settings(deadline=None)
@given(WEIGHTS, NOTES, COLOURS, st.integers(0, 100), HOLDERS)
def test_what_is_written_shares_100_raises_the_token_and_names_the_writer(
    weights, notes, colour, weight, holder
) -> None:
    at = route(weights, notes)
    try:
        plan = planned(at, colour, weight, holder)
    except tekton.Refused:
        return
    assert set(plan.after) == set(contract.COLOURS)
    assert sum(plan.after.values()) == 100
    assert plan.after[colour] == weight
    after = applied(plan, at)
    assert (after.token, after.holder) == (at.token + 1, holder)


@settings(deadline=None)
@given(WEIGHTS, NOTES, COLOURS, st.integers(0, 100), HOLDERS)
def test_the_live_colour_is_unique_and_its_digest_noted_when_it_changes(weights, notes, colour, weight, holder) -> None:
    at = route(weights, notes)
    try:
        plan = planned(at, colour, weight, holder)
    except tekton.Refused:
        return
    after = applied(plan, at)
    assert (after.live is None) == (0 < weight < 100)
    if after.live and after.live != at.stable:
        assert after.annotations[contract.ANNOTATION_LIVE_DIGEST] == DIGESTS[after.live]
        assert after.annotations[contract.ANNOTATION_LIVE_SINCE] == NOW


@settings(deadline=None)
@given(st.lists(st.tuples(COLOURS, st.integers(0, 100)), max_size=6), COLOURS)
def test_a_rollback_from_a_full_shift_or_a_split_leads_to_the_colour_that_was_live(steps, first) -> None:
    at = route({first: 100, routes.other(first): 0})
    stable = [first]
    for colour, weight in steps:
        at = applied(planned(at, colour, weight, "run-1"), at)
        if at.live and at.live != stable[-1]:
            stable.append(at.live)
    back = shifts.target(at, shifts.PREVIOUS, "rollback")
    assert back == (stable[-1] if at.split else routes.other(stable[-1]))
    done = applied(planned(at, shifts.PREVIOUS, 100, "rollback"), at)
    assert (done.live, shifts.target(done, shifts.PREVIOUS, "rollback")) == (back, back)


@settings(deadline=None)
@given(WEIGHTS, NOTES, COLOURS, st.integers(0, 100))
def test_nobody_moves_another_runs_split_except_back(weights, notes, colour, weight) -> None:
    at = route({"blue": 60, "green": 40}, {**notes, contract.ANNOTATION_SHIFT_HOLDER: "run-1"})
    back = weight == 100 and colour == at.annotations.get(contract.ANNOTATION_PREVIOUS)
    if back:
        assert planned(at, colour, weight, "run-2").after[colour] == 100
    else:
        with pytest.raises(tekton.Refused, match="being shifted"):
            planned(at, colour, weight, "run-2")


@settings(deadline=None)
@given(WEIGHTS, NOTES, COLOURS, HOLDERS)
def test_undoing_restores_the_notes_and_never_lowers_the_token(weights, notes, colour, holder) -> None:
    before = route(weights, notes)
    assume(before.live)
    written = applied(planned(before, colour, 100, holder), before)
    undone = {**written.annotations, **shifts.undo(before, written)}
    kept = {key: value for key, value in undone.items() if value is not None}
    token = kept.pop(contract.ANNOTATION_SHIFT_TOKEN)
    assert int(token) == before.token + 2
    assert (
        kept.pop(contract.ANNOTATION_SHIFT_WEIGHTS)
        == f"blue={100 * (before.live == 'blue')} green={100 * (before.live == 'green')}"
    )
    assert kept == {key: value for key, value in notes.items() if key != contract.ANNOTATION_SHIFT_TOKEN}


@pytest.mark.parametrize(
    ("weights", "notes", "back"),
    [
        ({"blue": 100, "green": 0}, {}, "green"),
        ({"blue": 0, "green": 1}, {contract.ANNOTATION_PREVIOUS: "green"}, "blue"),
        ({"blue": 90, "green": 10}, {contract.ANNOTATION_PREVIOUS: "blue"}, "blue"),
        ({"blue": 90, "green": 10}, {}, "blue"),
        ({"blue": 0, "green": 0}, {contract.ANNOTATION_PREVIOUS: "blue"}, "blue"),
    ],
)
def test_previous_is_a_colour_whatever_the_route_shows(weights, notes, back) -> None:
    assert shifts.target(route(weights, notes), shifts.PREVIOUS, "rollback") == back


@pytest.mark.parametrize(
    ("weights", "colour"), [({"blue": 50, "green": 50}, "previous"), ({"blue": 0, "green": 0}, "previous"),
                            ({"blue": 0, "green": 0}, "green")]
)  # fmt: skip
def test_a_route_that_does_not_tell_is_refused_with_the_command_to_run(weights, colour) -> None:
    with pytest.raises(tekton.Refused) as refused:
        shifts.target(route(weights), colour, "run-1")
    assert "oc set route-backends plate" in refused.value.remedy


@pytest.mark.parametrize(
    ("semver", "version"), [("1.7.0", "7"), ("1.12.0", "12"), ("1.0.0", ""), ("2.1.0", ""), ("", "")]
)
def test_the_registry_version_is_in_the_semantic_one(semver: str, version: str) -> None:
    assert shifts.registry_version(semver) == version


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"}, {"weight": 101}, {"weight": -1}, {"run_uid": ""}, {"verify_requests": 0},
        {"verify_timeout_seconds": 0.0}, {"model_digest": ""}, {"colour": "previous", "weight": 50},
    ],
    ids=str,
)  # fmt: skip
def test_params_out_of_range_are_bad_input(changes) -> None:
    values = {
        "route": "plate", "services": routes.pair("blue", "green"), "colour": "green", "model_digest": "d",
        "model_version": "1", "run_uid": "run-1",
    }  # fmt: skip
    preconditions.Request(**values)
    with pytest.raises(tekton.BadInput):
        preconditions.Request(**(values | changes))


LATER, PAST = datetime(2026, 1, 1, 0, 2, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 59, tzinfo=UTC)
EXPIRES = "2026-01-01T00:01:00Z"


def pending(at: routes.Route, colour: str, weight: int) -> routes.Route:
    """The Route after a shift that nobody has confirmed."""
    plan = shifts.plan(at, shifts.target(at, colour, "run-1"), weight, DIGESTS, "run-1", NOW, EXPIRES)
    return applied(plan, at)


@settings(deadline=None)
@given(COLOURS, st.integers(1, 100))
def test_a_pending_shift_ends_at_its_expiry_with_everything_where_it_came_from(first, weight) -> None:
    at = route({first: 100, routes.other(first): 0}, {contract.ANNOTATION_LIVE_DIGEST: DIGESTS[first]})
    shifted = pending(at, routes.other(first), weight)
    assert (shifted.shifting, shifted.stable) == (True, first)
    assert not shifts.expired(shifted, PAST)
    assert shifts.expired(shifted, LATER)
    weights, notes = shifts.take_back(shifted, NOW)
    back = route(weights, {k: v for k, v in {**shifted.annotations, **notes}.items() if v is not None})
    assert (back.live, back.shifting, back.token) == (first, False, shifted.token + 1)
    assert back.annotations[contract.ANNOTATION_LIVE_DIGEST] == DIGESTS[first]
    assert back.annotations[contract.ANNOTATION_REJECTED_DIGEST] == DIGESTS[routes.other(first)]
    assert back.holder == shifts.GUARD


@settings(deadline=None)
@given(COLOURS, st.integers(1, 100))
def test_a_confirmed_shift_does_not_expire_and_a_rollback_never_does(first, weight) -> None:
    at = route({first: 100, routes.other(first): 0})
    shifted = pending(at, routes.other(first), weight)
    notes = {k: v for k, v in {**shifted.annotations, **shifts.confirm()}.items() if v is not None}
    assert not shifts.expired(route(shifted.weights, notes), LATER)
    undone = applied(planned(shifted, shifts.PREVIOUS, 100, "rollback"), shifted)
    assert (undone.live, undone.shifting) == (first, False)


def test_another_run_may_not_shift_over_a_pending_one() -> None:
    shifted = pending(route({"blue": 100, "green": 0}), "green", 100)
    with pytest.raises(tekton.Refused, match="being shifted"):
        planned(shifted, "green", 50, "run-2")
    assert planned(shifted, "blue", 100, "run-2").after == {"blue": 100, "green": 0}


def test_weights_that_a_person_set_end_what_was_pending() -> None:
    shifted = pending(route({"blue": 100, "green": 0}), "green", 50)
    by_hand = route({"blue": 90, "green": 10}, dict(shifted.annotations))
    assert by_hand.foreign
    assert not shifts.expired(by_hand, LATER)
    assert shifts.expired(shifted, LATER)


def test_an_expiry_that_cannot_be_read_has_passed() -> None:
    shifted = pending(route({"blue": 100, "green": 0}), "green", 50)
    torn = route(shifted.weights, {**shifted.annotations, contract.ANNOTATION_SHIFT_EXPIRES: "soon"})
    assert shifts.expired(torn, PAST)


def test_a_rollback_takes_the_other_colour_out_and_a_shift_names_both() -> None:
    services = {"blue": "b", "green": "g"}
    spec = routes.backends({"blue": 0, "green": 100}, services, alone=True)["spec"]
    assert spec == {"to": {"kind": "Service", "name": "g", "weight": 100}, "alternateBackends": None}
    assert len(routes.backends({"blue": 0, "green": 100}, services)["spec"]["alternateBackends"]) == 1
    with pytest.raises(ValueError, match="cannot be taken out"):
        routes.backends({"blue": 10, "green": 90}, services, alone=True)


def test_the_guard_is_told_its_routes_by_variables() -> None:
    found = guard.guarded({"GUARDED_A": "heat=blue,green", "GUARDED_B": "cell = cell-blue, cell-green", "HOME": "/"})
    assert found == {"heat": {"blue": "blue", "green": "green"}, "cell": {"blue": "cell-blue", "green": "cell-green"}}


@pytest.mark.parametrize("text", ["heat", "heat=blue", "heat=blue,green,red", "=blue,green", "heat=blue,blue"])
def test_the_guard_refuses_what_names_no_route_with_two_services(text) -> None:
    with pytest.raises(tekton.BadInput):
        guard.guarded({"GUARDED_A": text})


def test_the_guard_needs_a_route() -> None:
    with pytest.raises(tekton.BadInput, match="GUARDED_"):
        guard.guarded({})
