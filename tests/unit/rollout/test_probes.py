"""How many probes a look sends: what its rate asks for, and no more than there is time for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from isotherm.deploy import probes, readiness, routes


class Slow(probes.Probes):
    """Its models answer after a second of a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, **changes: Any) -> None:
        super().__init__(
            SimpleNamespace(), routes.pair("blue", "green"), latency_seconds=0.1, **{"look_seconds": 5.0, **changes}
        )
        self.asked: list[str] = []
        self.now, self._seconds = 0.0, seconds
        endpoint = SimpleNamespace(url="http://127.0.0.1:1")
        monkeypatch.setattr(readiness, "ready", lambda cluster, service: [endpoint])
        monkeypatch.setattr(probes.time, "monotonic", lambda: self.now)

    def _ask(self, colour: str, url: str, number: int) -> None:
        self.now += self._seconds
        self.asked.append(colour)


def test_a_look_asks_both_colours_as_often_as_the_rate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Slow(monkeypatch, 0.01, per_second=2.0)
    for seconds in (0.0, 5.0, 0.25, 0.25):
        one.send(seconds)
    assert one.asked.count("blue") == one.asked.count("green") == 11


def test_slow_models_are_asked_less_rather_than_that_a_look_ends_late(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Slow(monkeypatch, 1.0, per_second=20.0)
    one.send(5.0)
    assert 5.0 < one.now <= 5.0 + 2 * 1.0
    before = len(one.asked)
    one.send(0.05)
    assert len(one.asked) == before + 2, "what a look had no time for is not owed by the next one"
