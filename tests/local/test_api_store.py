"""The rules of the object store: merge patch, versions, persistence."""

from __future__ import annotations

import contextlib
import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_target import files, named, route

from isotherm import tekton
from isotherm_local.kinds import CONFIG_MAP, EVENT, ROUTE
from isotherm_local.store import ApiError, Store, merge_patch

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


# The test cases of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_rfc_7386(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(json_values, json_values)
def test_merge_patch_is_idempotent_and_leaves_its_inputs_alone(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == before


def test_every_write_gets_a_greater_version_and_a_write_of_nothing_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(CONFIG_MAP, "n", named("a", data={"x": "1"}))
    store.create(CONFIG_MAP, "n", named("b"))
    assert store.resource_version == 2
    same = store.patch(CONFIG_MAP, "n", "a", {"data": {"x": "1"}})
    assert same["metadata"]["resourceVersion"] == "1"
    store.set_status(ROUTE, "n", store.create(ROUTE, "n", route("r", {"blue": 1}))["metadata"]["name"], {"ingress": []})
    assert store.get(ROUTE, "n", "r")["metadata"]["generation"] == 1
    assert store.resource_version == 4


def test_objects_and_versions_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = [store.create(CONFIG_MAP, "n", named(name)) for name in ("a", "b")]
    again = Store(tmp_path)
    assert again.list(CONFIG_MAP) == made
    assert again.create(CONFIG_MAP, "n", named("c"))["metadata"]["resourceVersion"] == "3"


def test_a_reader_cannot_change_what_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(CONFIG_MAP, "n", named("a", data={"x": "1"}))["data"]["x"] = "2"
    store.get(CONFIG_MAP, "n", "a")["data"]["x"] = "3"
    store.list(CONFIG_MAP)[0]["data"]["x"] = "4"
    assert store.get(CONFIG_MAP, "n", "a")["data"] == {"x": "1"}


@pytest.mark.parametrize("field", ["name", "namespace", "uid", "creationTimestamp", "generation"])
def test_identity_survives_every_patch(tmp_path: Path, field: str) -> None:
    store = Store(tmp_path)
    store.create(ROUTE, "n", route("a", {"blue": 1}))
    before = files(tmp_path)
    for value in ("other", None):
        with contextlib.suppress(ApiError):
            store.patch(ROUTE, "n", "a", {"metadata": {field: value}})
    assert files(tmp_path) == before


def test_an_invalid_patch_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(ROUTE, "n", route("r", {"blue": 100}))
    before = files(tmp_path)
    for patch in (
        {"spec": {"to": {"weight": 300}}},
        {"spec": None},
        {"metadata": {"labels": {"a": 1}}},
        {"metadata": []},
    ):
        with pytest.raises(ApiError):
            store.patch(ROUTE, "n", "r", patch)
    assert files(tmp_path) == before
    assert store.get(ROUTE, "n", "r")["spec"]["to"]["weight"] == 100


def test_a_failed_write_leaves_memory_as_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.create(CONFIG_MAP, "n", named("a", data={"x": "1"}))
    shutil.rmtree(tmp_path / "configmaps")
    (tmp_path / "configmaps").write_text("in the way")
    with pytest.raises(OSError, match="configmaps"):
        store.patch(CONFIG_MAP, "n", "a", {"data": {"x": "2"}})
    assert store.get(CONFIG_MAP, "n", "a")["data"] == {"x": "1"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(CONFIG_MAP, "n", named("a"))
    (tmp_path / "configmaps/n/a.json").write_text("{")
    with pytest.raises(tekton.BadInput, match=r"a\.json is damaged"):
        Store(tmp_path)


def test_old_events_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isotherm_local.store.KEPT_EVENTS", 3)
    store = Store(tmp_path)
    for index in range(5):
        store.create(EVENT, "n", named(f"e{index}", involvedObject={"namespace": "n"}))
    assert [event["metadata"]["name"] for event in Store(tmp_path).list(EVENT)] == ["e2", "e3", "e4"]
