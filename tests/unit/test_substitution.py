"""Substitution of Tekton's references and the kubelet's expansion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm_local.runner.substitution import (
    ResultReference,
    Variables,
    apply,
    apply_input,
    apply_list,
    apply_value,
    expand,
    params,
    references,
    result_reference,
    spellings,
)

PARAMS = params({"x": "1", "list": ["a", "b"], "point": {"lat": "52", "lon": "13"}, "dotted.name": "d"})
PLAIN = st.text(st.characters(exclude_characters="$()", exclude_categories=("Cs",)))
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(params.x)", "1"),
        ('$(params["x"])', "1"),
        ("$(params['x'])", "1"),
        ('$(params["dotted.name"])', "d"),
        ("a$(params.x)b$(params.x)", "a1b1"),
        ("$(params.list[1])", "b"),
        ("$(params.point.lat)", "52"),
        ("$(params.unknown)", "$(params.unknown)"),
        ("$(params.list[7])", "$(params.list[7])"),
        ("$params.x ${params.x} $(HOME)", "$params.x ${params.x} $(HOME)"),
        ("$($(params.x))", "$(1)"),
        ("$$(params.x)", "$1"),
        ("", ""),
    ],
)
def test_a_text_takes_the_values_of_known_references_and_keeps_the_rest(text: str, expected: str) -> None:
    assert apply(text, PARAMS.strings) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["$(params.list[*])"], ["a", "b"]),
        (["$(params.list)"], ["a", "b"]),
        (["-", "$(params['list'][*])", "-"], ["-", "a", "b", "-"]),
        (["x$(params.list[*])"], ["x$(params.list[*])"]),
        (["$(params.x)", "$(params.list[0])"], ["1", "a"]),
        ([], []),
    ],
)
def test_an_item_that_is_a_whole_array_becomes_its_items(items: list[str], expected: list[str]) -> None:
    assert apply_list(items, PARAMS) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("$(params.list[*])", ["a", "b"]),
        ("$(params.point[*])", {"lat": "52", "lon": "13"}),
        ("at $(params.point.lat)", "at 52"),
        (["$(params.x)", "$(params.list[*])"], ["1", "a", "b"]),
        ({"k": "$(params.x)"}, {"k": "1"}),
    ],
)
def test_a_value_takes_the_type_of_the_whole_it_refers_to(value: object, expected: object) -> None:
    assert apply_value(value, PARAMS) == expected  # type: ignore[arg-type]


def test_a_whole_array_in_a_guard_is_compared_as_json() -> None:
    assert apply_input("$(params.list[*])", PARAMS) == '["a","b"]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks.t.results.r", ResultReference("t", "r")),
        ("tasks.t.results.r[*]", ResultReference("t", "r")),
        ("tasks.t.results.r[2]", ResultReference("t", "r", index=2)),
        ("tasks.t.results.r.key", ResultReference("t", "r", key="key")),
        ("finally.t.results.r", ResultReference("t", "r", section="finally")),
        ("tasks.t.status", None),
        ("tasks.t.results.r.key.deeper", None),
        ("params.r", None),
    ],
)
def test_references_to_results_are_told_from_others(text: str, expected: ResultReference | None) -> None:
    assert result_reference(text) == expected


def test_only_tektons_own_references_are_listed() -> None:
    text = "$(params.a) $(HOME) ${x} $(tasks.t.results.r[*]) $(context.pipelineRun.name) $(date) $(params['b'])"
    assert references(text) == ["params.a", "tasks.t.results.r[*]", "context.pipelineRun.name", "params['b']"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the cases of Kubernetes' own test of its expansion
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)-$(VAR_B)", "A-B"),
        ("f000-$VAR_A", "f000-$VAR_A"),
        ("foo\\$(VAR_C)bar", "foo\\Cbar"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("$$(VAR_A)", "$(VAR_A)"),
        ("$$$(VAR_A)", "$A"),
        ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
        ("$(VAR_A", "$(VAR_A"),
        ("$VAR_A)", "$VAR_A)"),
        ("$", "$"),
        ("$$", "$"),
        ("$(VAR_A)$", "A$"),
        ("$(VAR_EMPTY)", ""),
        ("$()", "$()"),
        ("\n", "\n"),
    ],
)
def test_environment_names_expand_as_the_kubelet_does(text: str, expected: str) -> None:
    names = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}
    assert expand(text, names) == expected


@given(PLAIN, st.dictionaries(NAMES, PLAIN))
def test_a_text_without_references_stays_as_it_is(text: str, values: dict[str, str]) -> None:
    assert apply(text, params(dict(values)).strings) == text
    assert expand(text, values) == text


@given(NAMES, st.text())
def test_every_spelling_of_a_param_gives_its_value_once(name: str, value: str) -> None:
    strings = params({name: value}).strings
    for key in spellings("params", name):
        assert apply(f"<$({key})>", strings) == f"<{value}>"


@given(NAMES, st.lists(st.text()))
def test_an_array_keeps_its_items_and_their_order(name: str, items: list[str]) -> None:
    variables = params({name: items})
    assert apply_list([f"$(params.{name}[*])"], variables) == items
    assert [apply(f"$(params.{name}[{index}])", variables.strings) for index in range(len(items))] == items


@given(st.text(), st.dictionaries(NAMES, st.text()))
def test_no_text_makes_substitution_fail(text: str, values: dict[str, str]) -> None:
    variables = params(dict(values)) | Variables({"context.task.name": "t"})
    assert isinstance(apply_value(text, variables), str)
    assert isinstance(expand(text, values), str)


@given(st.text(st.sampled_from("$()ab")), st.dictionaries(st.sampled_from(["a", "b", "ab"]), st.text(max_size=3)))
def test_expansion_follows_the_kubelets_grammar(text: str, names: dict[str, str]) -> None:
    assert expand(text, names) == _by_letters(text, names)


def _by_letters(text: str, names: dict[str, str]) -> str:
    """Read letter by letter, as an independent statement of the grammar."""
    done, rest = [], text
    while rest:
        head, tail = rest[0], rest[1:]
        if head != "$" or not tail:
            done.append(head)
            rest = tail
        elif tail[0] == "$":
            done.append("$")
            rest = tail[1:]
        elif tail[0] == "(" and ")" in tail:
            name, _, rest = tail[1:].partition(")")
            done.append(names.get(name, f"$({name})"))
        else:
            done.append(head + tail[0])
            rest = tail[1:]
    return "".join(done)
