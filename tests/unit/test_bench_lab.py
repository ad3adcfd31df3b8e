"""What the lab's rollout benchmarks stand on: light models that pass for predictors, a door at which a writer dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from waiting import eventually

from isotherm import contract
from isotherm.deploy import counters, probes, traffic
from isotherm_local.ports import free_port

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))

import lab_objects  # noqa: E402
import rollout_lab  # noqa: E402
import shift_driver  # noqa: E402
from lab_lanes import Lane  # noqa: E402

DIGEST = "d" * 64


@pytest.fixture(scope="module")
def light() -> Iterator[str]:
    """A light model's URL."""
    port = free_port()
    names = {contract.ENV_MODEL_DIGEST: DIGEST, contract.ENV_MODEL_VERSION: "1.2.0", contract.ENV_TRACK: "green"}
    env = names | {"PORT": f"{port}", "PATH": os.environ["PATH"], "PYTHONPATH": str(BENCH.parents[1] / "images")}
    process = subprocess.Popen([sys.executable, str(BENCH / "light_predictor.py")], env=env)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(url + "/metrics", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    try:
        eventually(up, 20)
        yield url
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
def client(light: str) -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as found:
        found.post(light + "/behave")
        yield found


def counted(client: httpx.Client, light: str) -> dict[str, tuple[float, float]]:
    digest, samples = counters._scrape(client, light)
    assert digest == DIGEST
    return counters.counted(samples, 0.05)


def test_a_light_model_passes_for_a_predictor(light: str, client: httpx.Client) -> None:
    where = probes.point(probes.domain(client, light), 3)
    answer = probes.ask(client, light, where, fields="residual")
    assert (answer.status, answer.digest) == (200, DIGEST)
    assert not answer.failed
    with traffic.Router(light, "heat.example", tls=False) as router:
        assert router.ask() == traffic.Answer(200, DIGEST, "1.2.0")


@pytest.mark.parametrize(
    ("how", "metric", "least"),
    [
        ({}, "errors", 0),
        ({"errors": 1}, "errors", 20),
        ({"seconds": 0.1}, "latency", 19),
        ({"residual": 9}, "residual", 18),
    ],
)
def test_it_counts_against_itself_what_it_was_told_to_do(
    light: str, client: httpx.Client, how: dict[str, float], metric: str, least: int
) -> None:
    client.post(light + "/behave", params=how)
    before = counted(client, light)
    for number in range(20):
        client.get(light + "/predict-temperature", headers={contract.HEADER_PROBE: "x"} if number % 2 else {})
        client.get(light + "/predict-temperature")
    after = counted(client, light)
    bad, of = (now - then for now, then in zip(after[metric], before[metric], strict=True))
    assert of == 30, "probes are in no counter"
    assert least <= bad <= (30 if least else 0)


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    target = SimpleNamespace(router="http://router", kubeconfig="")
    return Lane(target, "plate", {"blue": "b", "green": "g"}, tmp_path)  # type: ignore[arg-type]


def test_a_driver_has_every_variable_of_the_step(lane: Lane, tmp_path: Path) -> None:
    found = shift_driver.environment(shift_driver.params(lane, "uid", step_weights="20,50"), tmp_path)
    assert found.keys() == {one["name"] for one in lab_objects.task()["spec"]["steps"][0]["env"]}
    assert not [value for value in found.values() if "$(" in value]
    assert (found["STEP_WEIGHTS"], found["SERVICE_GREEN"], found["PIPELINE_RUN_UID"]) == ("20,50", "g", "uid")


def write(share: int, **notes: str | None) -> dict[str, object]:
    """The patch of a Route as route-shift sends it, with notes of these kinds."""
    backends = [{"name": "b", "weight": 100 - share}, {"name": "g", "weight": share}]
    named = {getattr(contract, f"ANNOTATION_SHIFT_{name.upper()}"): value for name, value in notes.items()}
    spec = {"to": backends[0], "alternateBackends": backends[1:]}
    return {"spec": spec, "metadata": {"annotations": named}}


def test_the_door_knows_each_kind_of_write(lane: Lane) -> None:
    door = shift_driver.Door(lane)
    assert door._write("PATCH", write(20, token="7", expires="soon")) == "weights 20"
    assert door._write("PATCH", write(20, expires="later")) == "heartbeat at 20"
    assert door._write("PATCH", write(100, token="8", expires="soon")) == "weights 100"
    assert door._write("PATCH", write(100, expires=None)) == "confirm"
    assert door._write("POST", {"kind": "Event"}) == "event"


def test_every_further_lane_is_guarded_and_every_binding_names_its_namespace() -> None:
    lanes = {contract.DEFAULT_MODEL_NAME: {"blue": "blue", "green": "green"}, "lane-1": {"blue": "b", "green": "g"}}
    found = list(lab_objects.catalog(lanes, "here"))
    [guard] = [one for one in found if one["kind"] == "Deployment"]
    env = guard["spec"]["template"]["spec"]["containers"][0]["env"]
    guarded = [one["value"] for one in env if one["name"].startswith("GUARDED_")]
    assert guarded == [f"{contract.DEFAULT_MODEL_NAME}=blue,green", "lane-1=b,g"]
    assert {s["namespace"] for one in found for s in one.get("subjects", [])} == {"here"}


def test_without_a_lab_every_group_is_a_missed_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISOTHERM_LAB_STATE", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    bars = [bar for group in rollout_lab.GROUPS.values() for bar in group()]
    assert [bar.bar for bar in bars] == list(rollout_lab.GROUPS)
    assert not any(bar.passed for bar in bars)
    assert all(bar.note and "no lab is up" in bar.line() for bar in bars)
