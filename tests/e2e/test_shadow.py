"""Pipeline shadow: the idle colour's version is asked what clients asked the live one, by the predictors' own logs."""

from __future__ import annotations

import re

import httpx
import pytest

from e2e.conftest import OTHER, OTHER_PARAMS, Catalog
from isotherm import contract

ASKED = 600  # the judge wants some 320 answers of a healthy candidate


def test_a_version_on_the_idle_colour_is_judged_by_what_clients_asked_the_live_one(
    catalog: Catalog, rivals: tuple[str, ...], local_forms: object
) -> None:
    for name in rivals:
        catalog.wait(name)
    live = catalog.answers(OTHER).headers["x-model-digest"]
    candidate = next(v for v in catalog.versions(OTHER) if v.tags[contract.TAG_MODEL_DIGEST] != live)
    before = catalog.route(OTHER), catalog.champion(OTHER).version
    with httpx.Client(headers={"Host": catalog.get("route", OTHER)["spec"]["host"]}, timeout=10) as client:
        for number in range(ASKED):
            x, y, t = (number % 20 / 20, number % 23 / 23, number % 9 / 100)
            client.get(f"{catalog.target.router}/predict-temperature?x={x}&y={y}&t={t}").raise_for_status()

    params = {name.replace("_", "-"): value for name, value in OTHER_PARAMS.items()} | {
        "model-version": candidate.version, "model-digest": candidate.tags[contract.TAG_MODEL_DIGEST],
        "mlflow-uri": catalog.target.mlflow, "router-url": catalog.target.router, "tls-termination": "none",
    }  # fmt: skip
    ended = catalog.wait(catalog.pipeline_run("shadow-logged", "shadow-logged", params))
    if not ended.succeeded:
        pytest.fail("\n".join([str(ended.condition), *(catalog.log(run) for run in ended.task_runs)]))
    log = catalog.log(next(run for run in ended.task_runs if run["metadata"]["name"].endswith("-replay")))
    asked = re.search(r"(\d+) requests of the prediction log to", log)
    assert asked, log
    assert int(asked[1]) >= ASKED
    assert ended.results["outcome"] == "pass", log
    assert (catalog.route(OTHER), catalog.champion(OTHER).version) == before
