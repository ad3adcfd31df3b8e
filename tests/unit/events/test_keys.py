"""Names of runs: valid, told apart, and nothing hostile in them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from isotherm import tekton
from isotherm.events import keys

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
sha = st.from_regex(keys.SHA, fullmatch=True)
model = st.from_regex(keys.MODEL, fullmatch=True).filter(str.isascii)
slug = st.from_regex(keys.SLUG, fullmatch=True).filter(str.isascii)
fingerprint = st.from_regex(keys.FINGERPRINT, fullmatch=True)
version = st.integers(1, 10**8).map(str)
minute = st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)).map(lambda t: f"{t:%Y%m%d%H%M}")
starts = st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1)).map(lambda t: t.isoformat()[:19] + "Z")


def named(make: object, *arguments: str) -> str:
    """The name, or a discarded example where the parts are too long for one."""
    try:
        return make(*arguments)  # type: ignore[operator, no-any-return]
    except tekton.BadInput as error:
        assume("longer than" not in error.what)
        raise


@given(slug, sha, model, version, fingerprint, starts, minute)
def test_names_are_labels(watch: str, head: str, name: str, number: str, finger: str, start: str, when: str) -> None:
    made = [
        keys.data_push(watch, head), keys.code_push(watch, head), keys.alert(finger, start),
        named(keys.deploy, name, number), named(keys.schedule, name, when), keys.lakefs(watch, head + head[:24]),
    ]  # fmt: skip
    assert all(LABEL.fullmatch(one) for one in made)
    assert len(set(made)) == len(made)


@given(slug, slug, sha, sha)
def test_pushes_share_a_name_only_with_the_same_watch_and_the_same_twelve_digits(
    a: str, b: str, head: str, other: str
) -> None:
    same = a == b and head[:12] == other[:12]
    assert (keys.data_push(a, head) == keys.data_push(b, other)) is same


@given(model, model, version, version)
def test_versions_share_a_name_only_with_themselves(a: str, b: str, one: str, two: str) -> None:
    assert (named(keys.deploy, a, one) == named(keys.deploy, b, two)) is ((a, one) == (b, two))


@given(model, model, minute, minute)
def test_schedules_share_a_name_only_with_themselves(a: str, b: str, one: str, two: str) -> None:
    assert (named(keys.schedule, a, one) == named(keys.schedule, b, two)) is ((a, one) == (b, two))


@given(fingerprint, fingerprint, starts, starts)
def test_firings_share_a_name_only_within_a_second(a: str, b: str, one: str, two: str) -> None:
    assert (keys.alert(a, one) == keys.alert(b, two)) is ((a, one) == (b, two))


def test_the_digits_of_an_alert_are_those_that_the_listeners_filter_takes() -> None:
    name = "retrain-0123456789abcdef-20260301101112"
    for text in ("2026-03-01T10:11:12Z", "2026-03-01T10:11:12.987Z", "2026-03-01T10:11:12.987654321+02:00"):
        assert keys.alert("0123456789abcdef", text) == name


HOSTILE = [
    "", " ", "a b", "a\nb", "a\n", "$(uid)", "$(tt.params.x)", '"', "'", "..", "../x", "-o", "--upload-pack=x", "a/b",
    "A", "é", "١" * 12, "a" * 65, '{"a": 1}', "a;b", "`id`", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_input_is_refused(text: str) -> None:
    calls = [
        lambda: keys.data_push(text, "a" * 40), lambda: keys.data_push("watch", text),
        lambda: keys.deploy(text, "1"), lambda: keys.deploy("plate", text),
        lambda: keys.alert(text, "2026-03-01T10:11:12Z"),
        lambda: keys.alert("a" * 16, text), lambda: keys.schedule(text, "202603011011"),
        lambda: keys.schedule("plate", text), lambda: keys.lakefs(text, "a" * 64), lambda: keys.lakefs("plates", text),
        lambda: keys.scheduled_minute(text), lambda: keys.moment(text),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(tekton.BadInput):
            call()


@given(st.text())
def test_any_text_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        assert keys.deploy(text, "7") == f"deploy-{text}-v7"
    except tekton.BadInput:
        return
    assert LABEL.fullmatch(text)


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "1 ", "9999999999"])
def test_a_version_is_a_whole_number(version: str) -> None:
    with pytest.raises(tekton.BadInput):
        keys.deploy("plate", version)


def test_a_jobs_name_tells_its_minute() -> None:
    assert keys.scheduled_minute("isotherm-retrain-29123456") == "202505161456"
    for name in ("isotherm-retrain", "isotherm-retrain-x7k2p", "29123456", "a-123", "a-0912345678"):
        with pytest.raises(tekton.BadInput):
            keys.scheduled_minute(name)


times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))


@given(times, times, st.integers(0, 10**6))
def test_a_cool_down_lasts_as_long_as_it_says(now: datetime, renewed: datetime, seconds: int) -> None:
    until = keys.cooling(now, renewed, seconds)
    if renewed <= now:
        assert (until is not None) == (now < renewed + timedelta(seconds=seconds))
    assert until is None or now < until <= now + timedelta(seconds=2 * seconds)
    assert keys.cooling(renewed, renewed, seconds) == (renewed + timedelta(seconds=seconds) if seconds else None)
    assert keys.cooling(renewed + timedelta(seconds=seconds), renewed, seconds) is None


@given(times)
def test_a_leases_time_is_read_back(when: datetime) -> None:
    assert keys.moment(tekton.micro_time(when)) == when
