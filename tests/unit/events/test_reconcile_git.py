"""Lost pushes: real repositories, the real API, and the law that every data commit is covered and no name doubled."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from events_api import RUN, EventsApi, events_api, template
from git_history import OTHER, PATH, History
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm import contract, kube, tekton
from isotherm.events import config, keys, reconcile_git
from isotherm.events.runs import Runs, Wanted, fill

__all__ = ["events_api"]
DVC, LOCK = f"{PATH}.dvc", "dvc.lock"
TEMPLATE = template(
    "data", "git", ["name", "watch", "before", "revision"],
    labels={"isotherm.dev/watch": "$(tt.params.watch)"},
    annotations={"isotherm.dev/before": "$(tt.params.before)", "isotherm.dev/revision": "$(tt.params.revision)"},
)  # fmt: skip
_numbers = itertools.count(1)


@dataclass
class World:
    """A repository, a watch on it in a namespace of its own, and a scratch folder for the mirror."""

    api: EventsApi
    history: History
    watch: config.Watch
    namespace: str
    scratch: Path

    def reconcile(self) -> list[str]:
        runs = Runs(self.api.cluster(self.namespace))
        reconcile_git.reconcile(runs, self.watch, self.scratch)
        return runs.created

    def deliver(self, before: str, head: str) -> None:
        """What the listener does with a push that changes data."""
        key = keys.data_push(self.watch.watch, head)
        values = {"watch": self.watch.watch, "before": before, "revision": head}
        made = fill(TEMPLATE, {**values, "name": key})
        with contextlib.suppress(kube.Conflict):
            self.api.cluster(self.namespace).create(kube.PIPELINE_RUN, made)

    def runs(self) -> dict[str, dict[str, Any]]:
        return self.api.runs(self.namespace)

    def covered(self) -> set[str]:
        found: set[str] = set()
        for run in self.runs().values():
            notes = run["metadata"]["annotations"]
            before, revision = notes[contract.ANNOTATION_BEFORE], notes[contract.ANNOTATION_REVISION]
            span = [revision] if before == keys.NO_COMMIT else [f"{before}..{revision}"]
            found |= set(self.history.git("rev-list", *span).split())
        return found


def build(events_api: EventsApi, folder: Path) -> World:
    namespace = f"git-{next(_numbers)}"
    history = History(folder / "served.git")
    watch = config.Watch.model_validate(
        {"watch": "plates", "repo-url": str(history.folder), "branch": "main", "path": PATH, "template": "data"}
    )
    events_api.cluster(namespace).create(kube.TRIGGER_TEMPLATE, TEMPLATE)
    return World(events_api, history, watch, namespace, folder / "scratch")


@pytest.fixture
def world(events_api: EventsApi, tmp_path: Path) -> World:
    found = build(events_api, tmp_path)
    found.history.push([[DVC, OTHER]])
    return found


def test_the_first_pass_creates_nothing(world: World) -> None:
    world.history.push([[DVC]])
    assert world.reconcile() == []
    assert reconcile_git.recorded(world.api.cluster(world.namespace), "plates") == world.history.head
    assert world.reconcile() == []


def test_a_lost_push_gets_the_run_that_its_event_would_have_made(world: World) -> None:
    world.reconcile()
    before = world.history.head
    head = world.history.push([[DVC]])
    name = keys.data_push("plates", head)
    assert world.reconcile() == [name]
    run = world.runs()[name]["metadata"]
    assert run["labels"]["isotherm.dev/watch"] == "plates"
    assert run["annotations"] == {
        "isotherm.dev/event-key": name, "isotherm.dev/before": before, "isotherm.dev/revision": head,
        "isotherm.dev/recovered": "true",
    }  # fmt: skip
    assert world.reconcile() == []
    world.deliver(before, head)
    assert len(world.runs()) == 1, "the late event finds its name taken"


@pytest.mark.parametrize(
    ("files", "needed"), [([DVC], True), ([LOCK], True), ([OTHER], False), (["data/heatinv.dvc.md"], False),
                          (["data/other.dvc"], False), (["sub/dvc.lock"], False)],
    ids=str,
)  # fmt: skip
def test_only_commits_that_change_the_data_need_a_run(world: World, files: list[str], needed: bool) -> None:
    world.reconcile()
    world.history.push([files])
    assert bool(world.reconcile()) is needed


def test_each_lost_data_commit_gets_a_run(world: World) -> None:
    world.reconcile()
    world.history.push([[DVC], [OTHER], [LOCK, OTHER], [OTHER]])
    wanted = {keys.data_push("plates", sha) for sha in world.history.git("rev-list", "main", "-n3", "--skip=1").split()}
    assert set(world.reconcile()) < wanted
    assert len(world.runs()) == 2


def test_what_an_event_covers_needs_nothing(world: World) -> None:
    world.reconcile()
    before = world.history.head
    head = world.history.push([[DVC], [DVC], [OTHER]])
    world.deliver(before, head)
    assert world.reconcile() == []


def test_a_run_of_another_watch_covers_nothing(world: World) -> None:
    world.reconcile()
    before, head = world.history.head, world.history.push([[DVC], [OTHER]])
    values = {"watch": "others", "before": before, "revision": head}
    Runs(world.api.cluster(world.namespace)).create(Wanted(keys.data_push("others", head), "git", "data", values))
    assert len(world.reconcile()) == 1


def test_a_pruned_run_is_not_made_again(world: World) -> None:
    world.reconcile()
    before, head = world.history.head, world.history.push([[DVC], [OTHER]])
    world.deliver(before, head)
    world.reconcile()
    world.api.prune(keys.data_push("plates", head), world.namespace)
    assert world.reconcile() == []


def test_the_data_of_a_merged_branch_is_the_merge_commits(world: World) -> None:
    world.reconcile()
    head = world.history.push([[OTHER]], merged=[DVC])
    assert world.reconcile() == [keys.data_push("plates", head)]


def test_a_force_push_goes_on_from_where_the_histories_parted(world: World) -> None:
    base = world.history.head
    world.reconcile()
    gone = world.history.push([[DVC]])
    assert world.reconcile() == [keys.data_push("plates", gone)]
    head = world.history.push([[OTHER], [DVC]], onto=base)
    assert world.reconcile() == [keys.data_push("plates", head)]
    assert world.reconcile() == []


def test_a_history_that_is_wholly_new_starts_at_its_head(world: World, tmp_path: Path) -> None:
    world.reconcile()
    elsewhere = History(tmp_path / "elsewhere.git")
    elsewhere.push([[DVC, "x"], [DVC], [OTHER]])
    world.watch = world.watch.model_copy(update={"repo_url": str(elsewhere.folder)})
    world.scratch = tmp_path / "fresh"
    assert world.reconcile() == []
    elsewhere.push([[DVC]])
    assert len(world.reconcile()) == 1


def test_a_server_without_filters_serves_too(world: World) -> None:
    world.history.git("config", "uploadpack.allowFilter", "false")
    world.history.git("config", "uploadpack.allowAnySHA1InWant", "false")
    world.reconcile()
    world.history.push([[DVC]])
    assert len(world.reconcile()) == 1


def test_the_mirror_holds_no_contents(world: World) -> None:
    world.watch = world.watch.model_copy(update={"repo_url": f"file://{world.history.folder}"})
    world.reconcile()
    clone = world.scratch / "plates/repository.git"
    kinds = subprocess.run(
        ["git", "-C", str(clone), "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(kinds) == {"commit", "tree"}
    world.history.push([[DVC]])
    assert len(world.reconcile()) == 1


def test_a_creation_that_fails_leaves_the_rest_for_the_next_pass(world: World) -> None:
    world.reconcile()
    start = world.history.head
    world.history.push([[OTHER], [DVC]])
    world.watch = world.watch.model_copy(update={"template": "absent"})
    with pytest.raises(tekton.Refused, match="no TriggerTemplate absent"):
        world.reconcile()
    recorded = reconcile_git.recorded(world.api.cluster(world.namespace), "plates")
    assert recorded == world.history.git("rev-parse", "main~1").strip() != start
    world.watch = world.watch.model_copy(update={"template": "data"})
    assert world.reconcile() == [keys.data_push("plates", world.history.head)]


@pytest.mark.parametrize("label", ["isotherm.dev/watch", "isotherm.dev/event"])
def test_a_template_whose_run_would_not_be_found_again_makes_none(world: World, label: str) -> None:
    world.reconcile()
    cluster = world.api.cluster(world.namespace)
    stored = cluster.get(kube.TRIGGER_TEMPLATE, "data")
    assert stored is not None
    resources = stored["spec"]["resourcetemplates"]
    del resources[0]["metadata"]["labels"][label]
    cluster.patch(
        kube.TRIGGER_TEMPLATE, "data", {"spec": {"resourcetemplates": resources}}, stored["metadata"]["resourceVersion"]
    )
    world.history.push([[DVC]])
    with pytest.raises(tekton.Refused, match=f"label {label} None"):
        world.reconcile()
    assert world.runs() == {}


def test_a_repository_that_is_gone_or_lacks_the_branch_is_one_line(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "none"
    empty.mkdir()
    for change in ({"repo_url": str(empty)}, {"branch": "none"}, {"repo_url": "--upload-pack=x"}):
        broken = world.watch.model_copy(update=change)
        with pytest.raises(tekton.BadInput):
            reconcile_git.reconcile(Runs(world.api.cluster(world.namespace)), broken, tmp_path / "other")


COMMIT = st.lists(st.sampled_from([DVC, LOCK, OTHER]), min_size=1, max_size=2, unique=True)
PUSH = st.tuples(
    st.lists(COMMIT, min_size=1, max_size=4),
    st.sampled_from([[], [], [DVC], [OTHER]]),  # merged last
    st.sampled_from(["lost", "delivered", "doubled"]),
    st.sampled_from(["", "", "reconcile", "prune"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PUSH, min_size=1, max_size=6))
def test_after_events_and_one_pass_every_data_commit_is_covered_once(events_api: EventsApi, pushes: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = build(events_api, Path(folder))
        start = world.history.push([[DVC, LOCK, OTHER]])
        world.reconcile()
        made, covered, delivered = set(), set[str](), set[str]()
        for commits, merged, fate, then in pushes:
            before = world.history.head
            head = world.history.push(commits, merged=merged)
            data = any({DVC, LOCK} & set(files) for files in [*commits, merged])
            for _ in range({"lost": 0, "delivered": 1, "doubled": 2}[fate] if data else 0):
                world.deliver(before, head)
                delivered |= set(world.history.git("rev-list", f"{before}..{head}").split())
            if then:
                world.reconcile()
                covered |= world.covered()
            if then == "prune":
                for name in world.runs():
                    made.add(name)
                    world.api.prune(name, world.namespace)
        world.reconcile()
        covered |= world.covered()
        names = set(world.runs())
        assert set(world.history.data_commits(start)) <= covered
        assert not made & names, "a run was made twice"
        notes = [run["metadata"]["annotations"] for run in world.runs().values()]
        recovered = {note[contract.ANNOTATION_REVISION] for note in notes if contract.ANNOTATION_RECOVERED in note}
        assert not recovered & delivered, "a commit got a second run"
        versions = {run["metadata"]["resourceVersion"] for run in world.runs().values()}
        assert world.reconcile() == []
        assert {run["metadata"]["resourceVersion"] for run in world.runs().values()} == versions
        assert len(events_api.store.list(RUN, world.namespace)) == len(names)
