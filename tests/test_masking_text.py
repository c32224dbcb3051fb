"""Credentials in names and text, by the examples in the two corpora and by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus import judge
from celery_stats.masking import text as credentials
from celery_stats.masking.names import is_secret_name
from celery_stats.masking.text import MAX_FOUND, TextMasker


def masked(text: str) -> str:
    return TextMasker(is_secret_name, "***", has_stems=True).mask_text(text)


CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())


@pytest.mark.parametrize("example", CORPUS, ids=lambda e: f"{e['category']}: {e['value']!r:.60}")
def test_corpus(example: dict[str, Any]) -> None:
    left, lost = judge(example)
    assert lost == []
    # The known misses stand in the documentation as such.
    assert left == (example["secret"] if example.get("missed") else [])


def test_corpus__is_large_enough() -> None:
    assert len(CORPUS) >= 150
    assert sum(1 for example in CORPUS if example.get("missed")) == 1


def test_is_secret_name__compares_words() -> None:
    words = ["api key", "API-KEY", "apiKey", "ApiKey2", "x_api_key", "HTTP_X_API_KEY", "apikey"]
    assert [name for name in words if not is_secret_name(name)] == []
    others = ["monkey", "keyword", "author", "key_prefix", "", "42", "://token", "ключ"]
    assert [name for name in others if is_secret_name(name)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=a, page=3", "password=***, page=3"),
        ("password=a,b page=3", "password=*** page=3"),
        ("password=a&b page=3", "password=*** page=3"),
        ("?password=a&b=3#c", "?password=***&b=3#c"),
        ("f(password=a)", "f(password=***)"),
        ("password=a)b page=3", "password=*** page=3"),
        ("password=Secret('a b', c), page=3", "password=***, page=3"),
        ("password=Secret('a b", "password=***"),
        (r"password=(a\), b), page=3", "password=***, page=3"),
        ("{'password': ('a', \"b)\", '\\')'), 'page': 3}", "{'password': ***, 'page': 3}"),
        ('{"password": "a\\\\", "page": 3}', '{"password": "***", "page": 3}'),
        (
            '{\\"password\\": \\"a b\\", \\"page\\": 3}',
            '{\\"password\\": \\"***\\", \\"page\\": 3}',
        ),
        ("PASSWORD='it''s' PAGE='3'", "PASSWORD='***' PAGE='3'"),
        ("password='' page=3", "password='' page=3"),
        ("password=None page=3", "password=None page=3"),
        ("password=******** page=3", "password=******** page=3"),
        ("a=1;password=b c;d=2", "a=1;password=***;d=2"),
        ("password=b c;d=2", "password=***;d=2"),
        ("a=1;password=b c", "a=1;password=***"),
        ("curl -H 'Cookie: a=b; c=d' h", "curl -H 'Cookie: ***' h"),
        ("<password/>", "<password/>"),
        ("<password> </password>", "<password> </password>"),
        ("('token', 'x')", "('token', '***')"),
        ("('token', 'x', 'y')", "('token', 'x', 'y')"),
        ("token 'x'", "token '***'"),
        ("key 'x'", "key 'x'"),
        ("token -x", "token -x"),
        ("--token -x", "--token -x"),
        ("--token x -y", "--token *** -y"),
    ],
)
def test_mask__where_a_value_ends(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_mask__another_filters_names() -> None:
    masker = TextMasker(lambda name: name == "iban", "***", has_stems=False)
    assert masker.mask_text("iban=DE42&password=shown") == "iban=***&password=shown"


def test_mask__substitute_of_any_form() -> None:
    masker = TextMasker(is_secret_name, r"\1\g<0>", has_stems=True)
    assert masker.mask_text("token=abc") == r"token=\1\g<0>"
    assert masker.mask_text("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl") == r"\1\g<0>"


def test_mask__more_than_are_masked_one_by_one__the_rest_whole() -> None:
    text = masked("token=a " * (MAX_FOUND + 5) + "page=3")
    assert text == "token=*** " * MAX_FOUND + "token=***"


def test_mask__more_text_than_is_searched__whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_EXAMINED", 16_000)
    masker = TextMasker(is_secret_name, "***", has_stems=True)
    text = "the key " * 1000
    assert [masker.mask_text(text) for _ in range(3)] == [text, text, "***"]
    assert masker.mask_text("a harmless one") == "a harmless one"


@given(st.text("ab:=@/?&#;,'\"\\ {}[]()<>-\n", max_size=40))
def test_mask__any_text_around_a_named_secret(text: str) -> None:
    """What comes before may hide no credential that follows, and nothing raises."""
    assert "hunter2" not in masked(f'{text}\n "password": "hunter2"\n')


def test_mask_text__finds_no_credential_in_their_own_substitute() -> None:
    text = "https://u:x@h/?token=y Authorization: Bearer z"
    once = masked(text)
    assert masked(once) == once
    assert not re.search(r"[xyz]\b", once)
