"""Whatever is sent to the predictor, it answers with a reason, names its model and stays up."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from predictor_fixtures import POINT, PREDICTIONS, V1, V2, Server, answered, rows, serving, tensors

from isotherm.predictor.guard import BODY_LIMIT_BYTES, HELD_LIMIT_BYTES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("GET", "/v2/models/other"),
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v1/models/inverse-heat-pinn:explain"),
        ("POST", "/v2/models/inverse-heat-pinn/versions/1/infer"),
        ("GET", "/v2/models/inverse-heat-pinn/versions/1"),
        ("POST", "/v2/repository/models/inverse-heat-pinn/unload"),
        ("GET", "/predict"),
        ("DELETE", "/predict-temperature"),
    ],
)
def test_what_is_not_served_is_a_404_or_405_and_harms_nothing(server: Server, method: str, path: str) -> None:
    response = server.http.request(method, path, json={"instances": [POINT]} if method == "POST" else None)
    assert response.status_code in (404, 405)
    assert answered(response, server)["error"]
    assert server.http.get("/v2/models/inverse-heat-pinn/ready").status_code == 200


BAD = {
    "NaN": rows("[[NaN, 0.5, 0.1]]"),
    "infinite": rows("[[0.5, 0.5, -Infinity]]"),
    "overflowing": rows("[[0.5, 0.5, 1e999]]"),
    "far outside": rows("[[1e308, 1e308, 1e308]]"),
    "ragged": rows("[[0.5, 0.5], [0.5, 0.5, 0.1]]"),
    "flat": rows("[0.5, 0.5, 0.1]"),
    "too deep": rows("[[[0.5, 0.5, 0.1]]]"),
    "four columns": rows("[[0.5, 0.5, 0.1, 0.2]]"),
    "empty list": rows("[]"),
    "empty row": rows("[[]]"),
    "text": rows('[["0.5", "0.5", "0.1"]]'),
    "boolean": rows("[[true, 0.5, 0.1]]"),
    "null": rows("[[null, 0.5, 0.1]]"),
    "objects": rows('[{"x": 1}]'),
    "huge integer": rows(f"[[{'9' * 400}, 0.5, 0.1]]"),
    "nested 100,000 deep": rows("[" * 100_000 + "]" * 100_000),
    "too many rows": rows(json.dumps([[0, 0, 0]] * 100_001)),
    "unknown field": b'{"instance": [[0.5, 0.5, 0.1]]}',
    "unknown output": b'{"instances": [[0.5, 0.5, 0.1]], "fields": ["v"]}',
    "source not asked for": b'{"instances": [[0.5, 0.5, 0.1]], "f": [1.0]}',
    "list": b"[[0.5, 0.5, 0.1]]",
    "empty": b"",
    "not JSON": b"x=0.5&y=0.5&t=0.1",
    "not UTF-8": b'{"instances": [["\xff"]]}',
    "cut off": b'{"instances": [[0.5,',
    "lone surrogate": rb'{"instances": [["\ud800"]]}',
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused_with_a_reason(server: Server, name: str) -> None:
    for path in (*PREDICTIONS, "/v1/models/other:predict"):
        response = server.http.post(path, content=BAD[name])
        assert 400 <= response.status_code < 500, path
        assert 0 < len(answered(response, server)["error"]) < 600


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "FP32"},
        {"datatype": "BYTES", "data": ["a", "b", "c"]},
        {"name": "points2"},
        {"shape": [3]},
        {"shape": [1, 4]},
        {"shape": [-1, 3]},
        {"shape": [0, 3], "data": []},
        {"shape": [2**62, 3]},
        {"shape": [1, 3], "data": [0.5, 0.5]},
        {"data": [[0.5, 0.5]]},
        {"data": [[[0.5, 0.5, 0.1]]]},
        {"data": [None, 0.5, 0.1]},
        {"data": None},
        {"parameters": {"binary_data_size": 24}, "data": []},
    ],
)
def test_bad_tensors_are_refused_with_a_reason(server: Server, change: dict[str, Any]) -> None:
    request = tensors([POINT])
    request["inputs"][0] |= change
    response = server.http.post(V2, json=request)
    assert 400 <= response.status_code < 500
    assert answered(response, server)["error"]


@pytest.mark.parametrize(
    "query", ["", "x=1&y=1", "x=nan&y=0&t=0", "x=inf&y=0&t=0", "x=1e308&y=1e308&t=1e308", "x=a&y=0&t=0"]
)
def test_bad_queries_are_refused_with_a_reason(server: Server, query: str) -> None:
    response = server.http.get(f"/predict-temperature?{query}")
    assert 400 <= response.status_code < 500
    assert answered(response, server)["error"]


@pytest.mark.parametrize("header", ["content-encoding", "ce-specversion", "inference-header-content-length"])
def test_encodings_that_are_not_read_are_refused(server: Server, header: str) -> None:
    response = server.http.post(V2, json=tensors([POINT]), headers={header: "1"})
    assert response.status_code == 415
    assert answered(response, server)["error"]


def test_the_type_of_a_json_body_does_not_matter(server: Server) -> None:
    for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"):
        response = server.http.post(V1, content=rows(json.dumps([POINT])), headers={"content-type": kind})
        assert response.status_code == 200
        assert server.http.post(V2, content=json.dumps(tensors([POINT])), headers={"content-type": kind}).is_success


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=15,
)
known = ("instances", "inputs", "outputs", "parameters", "fields", "id", "f", "x", "y", "t", "data", "specversion")
tensor_like = st.fixed_dictionaries(
    {
        "name": st.just("points"),
        "shape": st.lists(st.integers(), max_size=3),
        "datatype": st.sampled_from(["FP64", "FP16"]),
    },
    optional={"data": json_values, "parameters": json_values},
)
bodies = (
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(known), json_values, max_size=5).map(lambda value: json.dumps(value).encode())
    | st.lists(tensor_like, max_size=2).map(lambda value: json.dumps({"inputs": value}).encode())
)


@given(bodies, st.sampled_from(PREDICTIONS))
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_body_whatever_brings_the_server_down(server: Server, content: bytes, path: str) -> None:
    response = server.http.post(path, content=content)
    answer = answered(response, server)
    assert response.status_code < 500
    assert "error" in answer if response.is_error else answer


def test_a_body_over_the_limit_is_refused_before_it_was_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Length: {100 << 20}\r\n\r\n{{".encode())
        head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 413")
    assert server.digest.encode() in head


def test_a_body_of_undeclared_length_is_cut_off_at_the_limit(server: Server) -> None:
    chunk = b" " * (1 << 20)
    response = server.http.post("/predict", content=(chunk for _ in range(BODY_LIMIT_BYTES // len(chunk) + 2)))
    assert response.status_code == 413
    assert answered(response, server)["error"]


def test_a_malformed_request_names_the_model_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"NOT HTTP\r\n\r\n")
        head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 400")
    assert server.digest.encode() in head


def test_bodies_held_at_once_are_bounded_and_the_room_is_given_back(server: Server) -> None:
    almost = BODY_LIMIT_BYTES - 1
    head = f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_LIMIT_BYTES}\r\n\r\n".encode()
    with ExitStack() as stack:
        senders = []
        for _ in range(HELD_LIMIT_BYTES // almost + 1):
            senders.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
            senders[-1].sendall(head + b" " * almost)
        refused, _, _ = select.select(senders, [], [], 30)
        assert [sender.recv(65536)[:12] for sender in refused] == [b"HTTP/1.1 429"]
    deadline = time.monotonic() + 30  # the server hears of the closed connections a moment later
    while server.http.post(V1, json={"instances": [POINT]}).status_code != 200:
        assert time.monotonic() < deadline
