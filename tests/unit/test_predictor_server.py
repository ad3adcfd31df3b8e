"""The predictor as clients meet it: a real process in its own environment."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import numpy as np
import onnx_models
import pytest
from predictor_fixtures import POINT, V1, V2, VERSION, Server, answered, rows, serving, tensors

from isotherm import contract

LINEAGE = {"model_version", "data_version", "timestamp"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


def test_a_get_answers_exactly_the_documented_keys(server: Server) -> None:
    response = server.http.get("/predict-temperature", params=dict(zip("xyt", POINT, strict=True)))
    answer = answered(response, server)
    assert response.status_code == 200
    assert list(answer) == ["u(x,y,t)", "model_version", "data_version", "timestamp"]
    assert answer["u(x,y,t)"] == pytest.approx(onnx_models.expected([POINT])["u"][0], rel=1e-12)
    assert (answer["model_version"], answer["data_version"]) == (VERSION, "dvc-8fa23b")
    assert datetime.fromisoformat(answer["timestamp"]).tzinfo is not None
    assert answer["timestamp"].endswith("Z")


def test_a_posted_point_answers_u_and_takes_no_figure_from_the_client(server: Server) -> None:
    before = server.metrics()
    sent = {"x": 0.5, "y": 0.25, "t": 0.1, "oob_ratio": 1.0, "r_pde_mean": 9.0, "bc_violation_ratio": 1.0}
    answer = answered(server.http.post("/predict-temperature", json=sent), server)
    assert set(answer) == {"u"} | LINEAGE
    after = server.metrics()
    assert after["pinn_inputs_total"] == before["pinn_inputs_total"] + 1
    assert after["pinn_inputs_oob_total"] == before["pinn_inputs_oob_total"]


def test_fields_on_request_come_beside_u(server: Server) -> None:
    wanted = {name: values[0] for name, values in onnx_models.expected([POINT]).items()}
    query = {**dict(zip("xyt", POINT, strict=True)), "fields": "a,residual"}
    got = answered(server.http.get("/predict-temperature", params=query), server)
    assert {key: got[key] for key in ("u(x,y,t)", "a", "residual")} == pytest.approx(
        {"u(x,y,t)": wanted["u"], "a": wanted["a"], "residual": wanted["residual"]}
    )
    many = server.http.post("/predict", json={"instances": [POINT] * 2, "fields": ["residual"]}).json()
    assert many == {"predictions": [pytest.approx({"u": wanted["u"], "residual": wanted["residual"]})] * 2}


def test_every_protocol_gives_the_same_numbers(server: Server) -> None:
    points = np.random.default_rng(3).uniform(-1, 3, (50, 3)).tolist()
    wanted = onnx_models.expected(points)
    v1 = answered(server.http.post(V1, json={"instances": points}), server)
    assert server.http.post("/predict", json={"instances": points}).json() == v1
    v2 = answered(server.http.post(V2, json=tensors(points, id="7")), server)
    assert (v2["id"], v2["model_name"], v2["model_version"]) == ("7", "inverse-heat-pinn", VERSION)
    assert v2["outputs"][0]["data"] == v1["predictions"]
    assert v1["predictions"] == pytest.approx(wanted["u"], rel=1e-12)
    named = [{"name": "residual"}, {"name": "a"}]
    outputs = server.http.post(V2, json=tensors(points, outputs=named)).json()["outputs"]
    assert [(output["name"], output["datatype"], output["shape"]) for output in outputs] == [
        ("residual", "FP64", [50]),
        ("a", "FP64", [50]),
    ]
    assert outputs[1]["data"] == pytest.approx(wanted["a"], rel=1e-12)
    chosen = server.http.post(V2, json=tensors(points, parameters={"fields": "a"})).json()["outputs"]
    assert [output["name"] for output in chosen] == ["u", "a"]


def test_health_metadata_and_pages(server: Server) -> None:
    for path in ("/", "/v2/health/live", "/v2/health/ready", "/v1/models/inverse-heat-pinn", "/docs"):
        response = server.http.get(path)
        assert response.status_code == 200
        assert response.headers["x-model-digest"] == server.digest
    described = answered(server.http.get("/v2/models/inverse-heat-pinn"), server)
    assert described["inputs"] == [{"name": "points", "datatype": "FP64", "shape": [-1, 3]}]
    assert [output["name"] for output in described["outputs"]] == ["u", "a", "residual"]
    schema = answered(server.http.get("/openapi.json"), server)
    assert {"/predict", "/predict-temperature", "/v2/models/{model_name}/infer"} <= schema["paths"].keys()
    assert not [path for path in schema["paths"] if "repository" in path or "explain" in path]


def test_requests_refusals_and_points_are_counted(server: Server) -> None:
    before = server.metrics()
    inside, outside = [[0.5, 0.5, 0.5]] * 3, [[5.0, 0.5, 0.5]]
    edge = [[0.5, 1.0, 0.5], [0.0, 0.5, 0.5]]  # violated, kept
    assert server.http.post(V1, json={"instances": inside + outside + edge}).status_code == 200
    assert server.http.post(V1, json={"instances": []}).status_code == 400
    server.http.get("/v2/health/ready")
    after = server.metrics()
    grown = {name: after[name] - before[name] for name in after if name.endswith("_total") or name.endswith("_count")}
    assert grown == {
        "pinn_requests_total": 2,
        "pinn_refused_total": 1,
        "pinn_errors_total": 0,
        "pinn_latency_seconds_count": 2,
        "pinn_inputs_total": 6,
        "pinn_inputs_oob_total": 1,
        "pinn_pde_residual_count": 6,
        "pinn_bc_inputs_total": 2,
        "pinn_bc_violations_total": 1,
        "pinn_prediction_log_dropped_total": 0,
        "pinn_requests_oob_total": 1,
        "pinn_requests_residual_total": 1,
        "pinn_requests_bc_violation_total": 1,
        "pinn_probe_requests_total": 0,
    }
    assert {"pinn_inputs_oob_ratio", "pinn_pde_residual_mean", "pinn_bcViolation_ratio"} <= after.keys()


def test_a_probe_is_answered_and_counts_as_nothing_else(server: Server) -> None:
    before = server.metrics()
    probe = {contract.HEADER_PROBE: "route-shift"}
    assert server.http.post(V1, json={"instances": [[5.0, 0.5, 0.5]]}, headers=probe).status_code == 200
    assert server.http.get("/predict-temperature?x=0.5&y=0.5&t=1", headers=probe).status_code == 200
    assert server.http.get("/predict-temperature?x=oops&y=0.5&t=1", headers=probe).status_code == 422
    after = server.metrics()
    ours = {name for name in after if name.startswith("pinn_") and after[name] != before.get(name)}
    assert ours == {contract.METRIC_PROBES}
    assert after[contract.METRIC_PROBES] - before[contract.METRIC_PROBES] == 3
    # What comes next is a client again.
    server.http.get("/predict-temperature?x=0.5&y=0.5&t=1")
    assert server.metrics()["pinn_requests_total"] == before["pinn_requests_total"] + 1


def test_the_domain_says_what_may_be_asked(server: Server) -> None:
    answer = server.http.get(contract.PATH_DOMAIN).json()
    assert {axis: answer[axis] for axis in "xyt"} == onnx_models.DOMAIN


def test_gauges_forget_what_is_older_than_a_thousand_points(server: Server) -> None:
    server.http.post(V1, json={"instances": [[9.0, 0.5, 0.5]] * 900})
    server.http.post(V1, json={"instances": [[0.5, 0.5, 0.5]] * 750})
    metrics = server.metrics()
    assert metrics["pinn_inputs_oob_ratio"] == pytest.approx(0.25)
    mean = (0.25 * 0.9**2 + 0.75 * 0.05**2) / onnx_models.DENOMINATOR
    assert metrics["pinn_pde_residual_mean"] == pytest.approx(mean)


def test_large_and_concurrent_requests_are_answered_in_full(server: Server) -> None:
    points = np.random.default_rng(5).uniform(0, 1, (100_000, 3))
    with ThreadPoolExecutor(8) as pool:
        large = pool.submit(server.http.post, "/predict", json={"instances": points.tolist()})
        small = [pool.submit(server.http.post, V1, json={"instances": [[i / 100, 0.5, 0.5]]}) for i in range(100)]
        answers = [future.result().json()["predictions"][0] for future in small]
        assert large.result().json()["predictions"] == pytest.approx(onnx_models.expected(points)["u"])
    assert answers == pytest.approx([2 * i / 100 + 3.5 for i in range(100)])


def test_a_server_told_to_stop_finishes_what_it_began_and_writes_its_log(tmp_path: Any) -> None:
    with serving(tmp_path, boundary=False, source_input=True, hole=True) as server:
        metrics = server.http.get("/metrics").text
        assert "pinn_bc" not in metrics
        body = {"instances": [POINT, POINT], "f": [0.0, 2.0], "fields": ["residual"]}
        answer = server.http.post(V1, json=body).json()["predictions"]
        assert [row["residual"] for row in answer] == pytest.approx([0.05, -1.95])
        refused = server.http.post(V1, json={"instances": [POINT], "fields": ["residual"]})
        assert "f at each point" in refused.json()["error"]
        tensor = {"name": "f", "datatype": "FP64", "shape": [1], "data": [1.0]}
        request = tensors([POINT], outputs=[{"name": "residual"}])
        request["inputs"].append(tensor)
        assert server.http.post(V2, json=request).json()["outputs"][0]["data"] == pytest.approx([-0.95])

        failed = server.http.post(V1, json={"instances": [[0.0, 0.5, 0.5]]})
        assert failed.status_code == 500
        assert "point 0, which lies inside its domain" in answered(failed, server)["error"]
        assert server.metrics()["pinn_errors_total"] == 1

        sent = rows(json.dumps([[0.25, 0.25, 0.25]]))
        head = f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head + sent[:5])
            time.sleep(0.3)
            server.process.terminate()
            time.sleep(0.3)
            connection.sendall(sent[5:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert server.process.wait(30) == 0
        lines = server.logged()
        assert [line["x"] for line in lines] == [0.5, 0.5, 0.5, 0.25]
        assert lines[-1]["residual"] is None
        assert lines[0]["residual"] == pytest.approx(0.05)
        assert {(line["version"], line["track"], line["bc"]) for line in lines} == {(VERSION, "blue", None)}
