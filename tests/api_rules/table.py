"""The tables of answers, a test for each row."""

from __future__ import annotations

import pytest

from api_rules.answers import SAME
from api_rules.differences import TABLE, Difference
from api_rules.target import Api


@pytest.mark.parametrize("request_", SAME)
def test_both_apis_give_the_same_answer(api: Api, request_: str) -> None:
    ask, answer = SAME[request_]
    assert str(ask(api)) == answer


@pytest.mark.parametrize("difference", TABLE, ids=lambda difference: difference.request)
def test_a_known_difference_still_is_one(api: Api, difference: Difference) -> None:
    assert difference.embedded != difference.cluster
    assert str(difference.ask(api)) == difference.expected(api.name)
