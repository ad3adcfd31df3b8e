"""What the data plane really serves: requests through the router, counted by the digest that answers.

Reads   `GET /v2/models/<name>` through the Route, by the router's URL and the Host header
Writes  nothing
"""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from isotherm import contract, tekton
from isotherm.deploy import answers
from isotherm.deploy import weights as router
from isotherm.deploy.readiness import MODEL_PATH

CLUSTER_CA = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 0.25
FIRST_ANSWERS = 5
# A router that starts or reloads answers 503 itself for a moment (OpenShift's reloads every 5 s at most).
ROUTER_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """One answer through the Route: HTTP status and the model that gave it (empty where the router answered itself)."""

    status: int
    digest: str
    version: str


@dataclass
class Window:
    """Counts of one series of requests."""

    requests: int = 0
    by_digest: Counter[str] = field(default_factory=Counter)
    failures: Counter[int] = field(default_factory=Counter)
    unsigned: int = 0  # failures that no model signed: the router's own

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.requests += 1
        self.by_digest[answer.digest] += 1
        if not 200 <= answer.status < 300:
            self.failures[answer.status] += 1
            self.unsigned += not answer.digest

    @property
    def model_failed(self) -> bool:
        """Whether a model answered with an error."""
        return self.failures.total() > self.unsigned

    def share(self, digest: str) -> float:
        """Share of the answers that this digest gave."""
        return self.by_digest[digest] / self.requests if self.requests else 0.0


class Router:
    """A client of one Route. Each request has its own connection: an old one may end in a router that drains.

    None has a cookie: with the router's, which a platform's Route sets, every answer would come from the first backend.
    """

    def __init__(self, router_url: str, host: str, *, tls: bool) -> None:
        import httpx

        self.url = (router_url or f"{'https' if tls else 'http'}://{host}").rstrip("/") + MODEL_PATH
        self.host = host
        self._client = httpx.Client(
            headers={"Host": host, "Connection": "close"},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=ANSWER_SECONDS,
            verify=_trust(),
            trust_env=False,
        )

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self) -> Answer:
        """Send one request. Raises `tekton.Unavailable` where the router cannot be reached."""
        import httpx

        self._client.cookies.clear()
        try:
            answer = answers.get(self._client, self.url, extensions={"sni_hostname": self.host})
        except httpx.HTTPError as error:
            raise tekton.Unavailable(
                f"the router does not answer at {self.url} for host {self.host} ({error or type(error).__name__})",
                remedy="give param router-url, the router's address as seen from here, and check that the router is up",
            ) from error
        headers = answer.headers
        return Answer(
            answer.status_code,
            headers.get(contract.HEADER_MODEL_DIGEST, ""),
            headers.get(contract.HEADER_MODEL_VERSION, ""),
        )


def _trust() -> ssl.SSLContext:
    """The system's authorities, and in a pod the cluster's (its bundle holds the default router's)."""
    context = ssl.create_default_context()
    if CLUSTER_CA.is_file():
        context.load_verify_locations(CLUSTER_CA)
    return context


@dataclass(frozen=True)
class Expected:
    """The share of answers that one model digest should give, and the colours it stands behind."""

    digest: str
    share: float
    name: str


def expectations(digests: Mapping[str, str], shares: Mapping[str, float]) -> list[Expected]:
    """What each digest should give, from the colours' digests (empty ones left out) and shares."""
    found = []
    for digest in dict.fromkeys(filter(None, digests.values())):
        colours = [colour for colour, held in digests.items() if held == digest]
        found.append(Expected(digest, sum(shares[colour] for colour in colours), "+".join(colours)))
    return found


def disagreement(window: Window, expected: Sequence[Expected]) -> str:
    """Say how a window contradicts what is expected; empty where it agrees.

    A share of 0 or 1 must hold for every answer; another one within three standard deviations.
    """
    if window.failures:
        statuses = ", ".join(f"{status} x{count}" for status, count in sorted(window.failures.items()))
        return f"{sum(window.failures.values())} of {window.requests} answers were errors ({statuses})"
    if not window.requests:
        return "no request was answered"
    strangers = window.requests - sum(window.by_digest[one.digest] for one in expected)
    if strangers:
        return f"{strangers} of {window.requests} answers came from neither colour"
    for one in expected:
        observed = window.share(one.digest)
        if abs(observed - one.share) > router.tolerance(one.share, window.requests):
            return f"{one.name} gave {observed:.4f} of {window.requests} answers, {one.share:.4f} expected"
    return ""


def measure(client: Router, expected: Sequence[Expected], requests: int, beat: Callable[[], None]) -> Window:
    """Send up to `requests` requests, calling `beat` before each; stop at an error or an answer that no share allows:
    the window is lost.
    """
    window = Window()
    allowed = {one.digest for one in expected if one.share > 0}
    while window.requests < requests:
        beat()
        answer = client.ask()
        window.add(answer)
        if window.failures or answer.digest not in allowed:
            break
    return window


@dataclass(frozen=True)
class Verdict:
    """The last window, and how it contradicts the weights (empty: it agrees)."""

    window: Window
    problem: str


def verify(
    client: Router,
    expected: Sequence[Expected],
    *,
    requests: int,
    timeout_seconds: float,
    say: Callable[[str], None],
    beat: Callable[[], None],
) -> Verdict:
    """Measure window after window until one agrees with the shares, an answer is an error, or the time is over.

    `beat` is called before each request and may raise what ends the verification.

    Old answers are expected until the router has reloaded, and so is, for a short time, an error that no model signed:
    the router may have just started. A model's error ends it at once.
    """
    deadline, window, said = time.monotonic() + timeout_seconds, Window(), ""
    patience = deadline
    while True:
        try:
            window = measure(client, expected, requests, beat)
            problem = disagreement(window, expected)
        except tekton.Unavailable as error:
            window, problem = Window(), error.what
        if window.failures:
            patience = min(patience, time.monotonic() + ROUTER_GRACE_SECONDS)
        if not problem or window.model_failed or time.monotonic() >= patience:
            return Verdict(window, problem)
        if problem != said:
            said = problem
            say(f"waiting for the router: {problem}")
        time.sleep(PAUSE_SECONDS)


def wait_for_first_answers(client: Router, digest: str, timeout_seconds: float, say: Callable[[str], None]) -> None:
    """Wait until a new Route answers with this digest several times in a row. Raises `tekton.Unavailable` with the last
    reason.
    """
    deadline, row, said = time.monotonic() + timeout_seconds, 0, ""
    while row < FIRST_ANSWERS:
        try:
            answer = client.ask()
            good = answer.digest == digest and 200 <= answer.status < 300
            problem = "" if good else f"status {answer.status}, digest {answer.digest[:12] or '(none)'}"
        except tekton.Unavailable as error:
            problem = error.what
        row = 0 if problem else row + 1
        if problem and time.monotonic() >= deadline:
            raise tekton.Unavailable(
                f"the new Route does not answer with the model after {timeout_seconds:.0f} s: {problem}",
                remedy="check DNS and the router for its host, or give param router-url; then run again",
            )
        if problem and problem != said:
            said = problem
            say(f"waiting for the Route to answer: {problem}")
        if problem:
            time.sleep(PAUSE_SECONDS)
