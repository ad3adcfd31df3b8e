"""Sequential tests on counts that may be looked at after every request and stopped at any time.

Both statistics are log likelihood ratios of a simple alternative. Under the null hypothesis exp(llr) is a non-negative
martingale that starts at 1, so it ever reaches 1/alpha with probability at most alpha, however often one looks
(Ville's inequality; A. Wald, Sequential Analysis, 1947; Johari et al., arXiv 1512.04922). Under the alternative the
same holds of exp(-llr) and beta. Nothing is spent by looking, and nothing has to be decided about a sample's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Evidence(StrEnum):
    """What a test shows so far."""

    WORSE = "worse"
    FINE = "fine"
    OPEN = "open"


@dataclass(frozen=True)
class Bounds:
    """Where a statistic decides: at `worse` and above, at `fine` and below."""

    fine: float
    worse: float

    @classmethod
    def of(cls, alpha: float, beta: float) -> Bounds:
        """Bounds for a share alpha of false alarms and a share beta of misses, each at most, at any time."""
        _probability("alpha", alpha)
        _probability("beta", beta)
        return cls(math.log(beta), -math.log(alpha))

    def evidence(self, llr: float) -> Evidence:
        """Judge a statistic."""
        if llr >= self.worse:
            return Evidence.WORSE
        return Evidence.FINE if llr <= self.fine else Evidence.OPEN


@dataclass(frozen=True)
class Counts:
    """What one colour did between two looks: requests, and those of them that count against it (0 <= bad <= total)."""

    bad: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.total:
            raise ValueError(f"{self.bad} of {self.total} requests cannot be bad")

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.bad + other.bad, self.total + other.total)


NONE = Counts(0, 0)


def ratio_llr(canary: Counts, stable: Counts, ratio: float) -> float:
    """Evidence that the canary's rate is `ratio` times the stable one's, against that both are equal.

    The stable rate is unknown and may move: each bad answer is looked at by itself. If the rates are equal, a bad
    answer is the canary's with the canary's share q of the requests; else with ratio q / (ratio q + 1 - q). Requests
    without a bad answer say nothing. This is the conditional test of two Poisson rates (Przyborowski and Wilenski,
    Biometrika 31, 1940) in Wald's form; q is taken per look, as the share may change between two of them.

    Returns the increment in nats; 0 where either colour had no request, as there is then nothing to compare.
    """
    if ratio <= 1:
        raise ValueError(f"ratio is {ratio}; it must be above 1")
    if canary.total == 0 or stable.total == 0:
        return 0.0
    share = canary.total / (canary.total + stable.total)
    mixed = ratio * share + 1 - share
    return canary.bad * math.log(ratio / mixed) - stable.bad * math.log(mixed)


def rate_llr(counts: Counts, tolerated: float, unbearable: float) -> float:
    """Evidence (nats) that a rate is `unbearable`, against that it is `tolerated`: Wald's test of a Bernoulli rate."""
    _probability("tolerated", tolerated)
    _probability("unbearable", unbearable)
    if unbearable <= tolerated:
        raise ValueError(f"an unbearable rate of {unbearable} must be above the tolerated {tolerated}")
    good = counts.total - counts.bad
    return counts.bad * math.log(unbearable / tolerated) + good * math.log((1 - unbearable) / (1 - tolerated))


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
