"""The value of the header that names the workers that did not answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest

from celery_stats import headers
from celery_stats.headers import encode_worker_names


def test_plain_names__as_they_are() -> None:
    assert encode_worker_names(["a@b", "c@d"]) == "a@b,c@d"


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("a,b", "a%2Cb"),
        ("é", "%C3%A9"),
        ("x\r\ny", "x%0D%0Ay"),
        ('<b>"', '<b>"'),
        ("50%", "50%25"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("a\\b", "a%5Cb"),
        ("\x7f", "%7F"),
    ],
)
def test_odd_name__percent_encoded_and_decoded_again(name: str, encoded: str) -> None:
    assert encode_worker_names([name]) == encoded
    assert unquote(encoded) == name


def test_lone_surrogate__as_the_name_in_the_body() -> None:
    assert encode_worker_names(["\ud800"]) == "%5Cud800"


def test_more_than_a_proxy_takes__cut_and_counted() -> None:
    value = encode_worker_names([f"{number:04}@{'h' * 95}" for number in range(100)])
    names = value.split(",")
    assert (names[0], names[-1]) == (f"0000@{'h' * 95}", "+61")
    assert len(names) == 40
    assert len(value) < 4004


def test_first_name_too_long__counted() -> None:
    assert encode_worker_names(["h" * 4000, "a@b"]) == "+2"


def test_names_that_do_not_fit__not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding megabytes takes seconds."""
    encoded: list[str] = []

    def quote(name: str, **options: Any) -> str:
        encoded.append(name)
        return name

    monkeypatch.setattr(headers, "quote", quote)
    assert encode_worker_names(["a@b", "é" * 4000, "c@d"]) == "a@b,+2"
    assert encoded == ["a@b"]
