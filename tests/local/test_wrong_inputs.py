"""Ten wrong inputs at the real entry points, in the forms that take seconds; the benchmark leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import wrong_cases
from wrong_world import Ended, World, world


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Iterator[World]:
    """A local target that serves a model, with data, reports and a registered version."""
    with world(tmp_path_factory.mktemp("wrong"), mlflow_url) as made:
        yield made


@pytest.mark.parametrize("name", wrong_cases.CASES)
def test_a_wrong_input_ends_in_one_line_and_loses_nothing(served: World, name: str) -> None:
    row = wrong_cases.row(served, name)
    assert row["passed"], row


def test_what_is_lost_or_left_behind_is_seen(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left = served.claim / "data" / ".partial-1"

    def careless(world: World) -> wrong_cases.Seen:
        world.target.write_route(metadata={"annotations": {"touched": "yes"}})
        left.write_text("half")
        return wrong_cases.Seen([])

    monkeypatch.setitem(wrong_cases.CASES, "careless", careless)
    row = wrong_cases.row(served, "careless")
    left.unlink()
    assert (row["kept"], row["passed"]) == (False, False)
    changed, behind = row["faults"]
    assert changed.startswith("lost or changed: ")
    assert f"routes.route.openshift.io/wrong/{served.target.model_name}.json" in changed
    assert behind == f"left behind: {left}"


@pytest.mark.parametrize(
    ("code", "line", "said", "problem"),
    [
        (2, "error: port 1 is taken; give another", "", ""),
        (0, "error: port 1 is taken; give another", "", "exit code 0"),
        (2, "port 1 is taken; give another", "", "the last line does not say"),
        (2, "error: port 1 is taken", "", "the last line does not say"),
        (1, "error: it broke; mend it", "Traceback (most recent call last):\n", "a traceback"),
    ],
)
def test_an_end_that_helps_nobody_is_seen(code: int, line: str, said: str, problem: str) -> None:
    assert Ended(code, line, said + line, 0.0).problem().startswith(problem)
    assert bool(Ended(code, line, said + line, 0.0).problem()) == bool(problem)
