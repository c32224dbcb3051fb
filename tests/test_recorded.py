"""What callers get for recorded replies, byte for byte; see ``tests/recorded/``."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from celery_stats.control.snapshot import Snapshot
from tests.published import load, problems
from tests.recorded.replay import EXPECTED, RECORDED, answers


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_replies__answered_as_expected(name: str) -> None:
    expected = {path.name: path.read_bytes() for path in EXPECTED.glob(f"{name}.*")}
    found = dict(answers(name))
    assert found.keys() == expected.keys()
    for file, content in found.items():
        assert content.decode() == expected[file].decode(), file


@pytest.mark.parametrize("name", RECORDED)
def test_expected_answers__valid_by_the_schema(name: str) -> None:
    body = (EXPECTED / f"{name}.indented.http").read_text().partition("\n\n")[2]
    assert problems(json.loads(body), load()) == []


def test_expected_answers__no_secret_but_where_nothing_is_masked() -> None:
    with_secrets = [path.name for path in EXPECTED.iterdir() if "hunter" in path.read_text()]
    assert with_secrets == ["busy.unmasked.http"]


@pytest.mark.parametrize("name", RECORDED)
def test_recording__all_of_the_snapshot(name: str) -> None:
    parts = {field.name for field in fields(Snapshot)} - {"question"}
    assert RECORDED[name].keys() == parts | {"query"}


def test_expected_answers__each_belongs_to_a_recording() -> None:
    assert {path.name.partition(".")[0] for path in EXPECTED.iterdir()} == RECORDED.keys()
