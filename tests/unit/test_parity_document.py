"""docs/parity.md shows what test_parity.py knows to differ; the API's table has its own test beside the API."""

from __future__ import annotations

from pathlib import Path

from e2e import test_parity as parity

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_shows_what_the_module_knows() -> None:
    text = (ROOT / "docs/parity.md").read_text()
    shown = text[text.index(parity.FIRST) : text.index(parity.LAST) + len(parity.LAST)]
    assert shown == parity.document(), f"put this into docs/parity.md:\n{parity.document()}"


def test_every_name_in_the_module_is_an_example_of_the_list() -> None:
    names = {one.name for one in parity.LISTED}
    assert set(parity.PARITY) | set(parity.UNSUITED) <= names
    assert {one.name for one in parity.RUNS} >= parity.CORE | set(parity.PARITY)
    assert parity.REFUSED_THERE
    assert not set(parity.PARITY) & set(parity.UNSUITED)
