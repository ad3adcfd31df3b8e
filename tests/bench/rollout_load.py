"""Clients of a Route beside a block, and what became of each of their requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from scipy.stats import chi2

from isotherm import contract
from isotherm.deploy import shift
from isotherm.deploy.routes import other


def rate_bound(lost: int, asked: int) -> float:
    """Upper bound of a Poisson rate at 95 %; 3 / asked where none was lost."""
    return float(chi2.ppf(0.95, 2 * lost + 2) / 2 / asked)


class Load:
    """Clients at a fixed rate: on new connections, on one that is kept, and some with a cookie jar each."""

    def __init__(self, router_url: str, host: str, per_second: float, jars: int = 50) -> None:
        self._url = router_url + "/predict-temperature?x=0.5&y=0.5&t=0.1"
        self._host = {"Host": host}
        self._pause, self._jars = 1 / per_second, jars
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kind,)) for kind in ("new", "kept", "jar")]
        self.answers: list[tuple[float, str, int, str]] = []  # time, kind, status (0: none), digest
        self.lost: list[str] = []

    @property
    def jar_seconds(self) -> float:
        """Time between two requests of one cookie jar, s."""
        return 3 * self._pause * self._jars

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kind: str) -> None:
        clients = [httpx.Client(trust_env=False, timeout=10) for _ in range(self._jars if kind == "jar" else 1)]
        number, due = 0, time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            # By the clock, not by pauses: a slow answer does not slow the clients down.
            due = max(due + 3 * self._pause, time.monotonic() - 1)
            client = clients[number % len(clients)]
            number += 1
            headers = self._host | ({"Connection": "close"} if kind == "new" else {})
            try:
                answer = client.get(self._url, headers=headers)
                status, digest = answer.status_code, answer.headers.get(contract.HEADER_MODEL_DIGEST, "")
            except httpx.HTTPError as error:
                status, digest = 0, ""
                self.lost.append(f"{kind}: {type(error).__name__} {error}")
            self.answers.append((time.monotonic(), kind, status, digest))
        for client in clients:
            client.close()


def cycle(
    load: Load, live: str | None, shifter: Callable[[str, int], shift.Shifter], digests: Mapping[str, str]
) -> dict[str, Any]:
    """One cycle under load: the colour that is idle gets half of the traffic, loses it, and gets all of it.

    `shifter` builds a shift to a colour, or back ("previous"), with a weight; `digests` are the colours' models.
    """
    assert live, "a cycle begins with one live colour"
    idle = other(live)
    half = shifter(idle, 50).shift()
    times: list[float] = []
    back = shifter("previous", 100)
    write = back.routes.write

    def timed(*arguments: Any, **options: Any) -> Any:
        times.append(time.monotonic())
        done = write(*arguments, **options)
        times.append(time.monotonic())
        return done

    back.routes.write = timed  # type: ignore[method-assign]
    rolled = back.shift()
    time.sleep(2)  # whoever still answers as the canary after the verification is to be seen
    until, digest = time.monotonic(), digests[idle]
    after = [at for at, _, _, who in load.answers if who == digest and times[0] < at <= until]
    whole = shifter(idle, 100).shift()
    ends = [half["outcome"], rolled["outcome"], whole["outcome"]]
    return {
        "canary": idle, "outcomes": ends, "write": times[1] - times[0], "sound": ends == ["shifted"] * 3,
        "last_canary_answer": max(after, default=times[0]) - times[0],
    }  # fmt: skip
