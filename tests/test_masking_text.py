"""Credentials in text, by the examples in the corpus and by hand; each rule needs its example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus import judge, rules, without
from celery_stats.masking import text as module
from celery_stats.masking.names import is_secret_name
from celery_stats.masking.text import LONGEST, PIECE, TextMasker


def masked(text: str) -> str:
    return TextMasker(is_secret_name, "***").mask_text(text)


CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())


@pytest.mark.parametrize("example", CORPUS, ids=lambda e: f"{e['category']}: {e['value']!r:.60}")
def test_corpus(example: dict[str, Any]) -> None:
    left, lost = judge(example)
    assert lost == []
    # The known misses stand in the documentation as such.
    assert left == (example["secret"] if example.get("missed") else [])


@pytest.mark.parametrize("rule", rules(), ids=repr)
def test_corpus__a_rule_is_off__an_example_shows_it(rule: tuple[str, str]) -> None:
    with without(rule):
        assert any(
            judge(example) != ([], []) for example in reversed(CORPUS) if not example.get("missed")
        )


def test_corpus__is_large_enough() -> None:
    assert len(CORPUS) >= 150
    assert sum(1 for example in CORPUS if example.get("missed")) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=a, page=3", "password=***, page=3"),
        ("password=a,b page=3", "password=*** page=3"),
        ("password=a&b page=3", "password=*** page=3"),
        ("?password=a&b=3", "?password=***&b=3"),
        ("f(password=a)", "f(password=***)"),
        ("password=a)b page=3", "password=*** page=3"),
        ("password    =    a", "password    =    ***"),
        ("password = '''a b'''", "password = '''***'''"),
        ("password=Secret('a b', c), page=3", "password=***, page=3"),
        ("password=Secret('a b", "password=***"),
        ("{'password': [('a', 'b'), ('c',)], 'page': 3}", "{'password': ***, 'page': 3}"),
        ("{'password': <Secret hunter2>, 'page': 3}", "{'password': ***, 'page': 3}"),
        ('{"password": "a\\\\", "page": 3}', '{"password": "***", "page": 3}'),
        (
            '{\\"password\\": \\"a b\\", \\"page\\": 3}',
            '{\\"password\\": \\"***\\", \\"page\\": 3}',
        ),
        ("password='' page=3", "password='' page=3"),
        ("password=None page=3", "password=None page=3"),
        ("password=${DB_PASSWORD} page=3", "password=${DB_PASSWORD} page=3"),
        ("password=******** page=3", "password=******** page=3"),
        ("a=1;password=b c;d=2", "a=1;password=***;d=2"),
        ("password=b c;d=2", "password=***;d=2"),
        ("curl -H 'Cookie: a=b; c=d' h", "curl -H 'Cookie: ***' h"),
        ("<password/>", "<password/>"),
        ("<password> </password>", "<password> </password>"),
        ("<a:password><![CDATA[x<y]]></a:password>", "<a:password><![CDATA[***]]></a:password>"),
        ("({'name': 'DB_PASSWORD', 'value': 'x'},)", "({'name': 'DB_PASSWORD', 'value': '***'},)"),
        ("(['--password', 'x'],)", "(['--password', '***'],)"),
        ("('password', 'x token=y', 1)", "('password', 'x token=***', 1)"),
        ("[('token', 'x')]", "[('token', '***')]"),
        ("['token', 'x', 'y']", "['token', 'x', 'y']"),
        ("{'fields': ['token', 'name']}", "{'fields': ['token', 'name']}"),
        ("token 'x'", "token '***'"),
        ("key 'x'", "key 'x'"),
        ("token -x", "token -x"),
        ("--token -x", "--token -x"),
        ("--token x -y", "--token *** -y"),
        ("API key: abc1", "API key: ***"),
        ("ssh://git@h/a, amqp://token7@h", "ssh://git@h/a, amqp://***@h"),
    ],
)
def test_mask__where_a_value_ends(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_mask__another_filters_names() -> None:
    masker = TextMasker(lambda name: name == "iban", "***")
    assert masker.mask_text("iban=DE42&password=shown") == "iban=***&password=shown"


def test_mask__substitute_of_any_form() -> None:
    masker = TextMasker(is_secret_name, r"\1\g<0>")
    assert masker.mask_text("token=abc") == r"token=\1\g<0>"
    assert masker.mask_text("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl") == r"\1\g<0>"


@pytest.mark.parametrize(
    "credential", ["token='%s'", "-----BEGIN PRIVATE KEY-----%s", "eyJhbGciOi.eyJz%s"]
)
@pytest.mark.parametrize("before", range(PIECE - 40, PIECE + 4, 4))
def test_mask__at_the_border_of_two_pieces__whole(credential: str, before: int) -> None:
    secret = "hunter2" * 500
    text = f"{'- ' * (before // 2)}{credential.replace('%s', secret)} after"
    found = masked(text)
    assert "hunter" not in found
    assert found.startswith("- " * (before // 2))


def test_mask__value_that_does_not_end_soon__to_the_end_of_the_text() -> None:
    assert masked(f"a token={'x' * LONGEST}yz page=3") == "a token=***"


def test_mask__time_is_over__the_rest_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)
    masker = TextMasker(is_secret_name, "***")
    assert masker.mask_text(f"token=a {'b c ' * PIECE}") == "***"
    assert {masker.mask_text(f"a b {n}") for n in range(40)} == {"***"}
    assert masker.mask_text("harmless") == "harmless"
    assert masker.is_secret("any name")


#: Texts of the worst kind for one of the patterns each.
WORST = [
    ",a:",
    "x ",
    "token ",
    "('token', 'x",
    "://a:b",
    "a@",
    "eyJaaaaaa-",
    "-u a:",
    "<token>",
    "'",
    "a1 ",
    "token=[",
    "-----BEGIN PRIVATE KEY-----",
    'password=a\\"',
    "token 'a",
]


@pytest.mark.parametrize("part", WORST)
def test_mask__megabytes_of_the_worst_kind__others_run_meanwhile(part: str) -> None:
    """Asserts how often another thread runs, not how fast it is."""
    over, ticks = Event(), []

    def tick() -> None:
        while not over.is_set():
            ticks.append(monotonic())
            sleep(0.001)

    thread = Thread(target=tick)
    thread.start()
    text = part * (2_000_000 // len(part)) + "@"
    masked(text)
    over.set()
    thread.join()
    # One search of all of it would let the other thread run twice.
    assert len(ticks) > 5


@given(st.text("ab:=@/?&#;,'\"\\ {}[]()<>-\n", max_size=40))
def test_mask__any_text_around_a_named_secret(text: str) -> None:
    """What comes before may hide no credential that follows, and nothing raises."""
    assert "hunter2" not in masked(f'{text}\n "password": "hunter2"\n')


def test_mask_text__finds_no_credential_in_their_own_substitute() -> None:
    text = "https://u:x@h/?token=y Authorization: Bearer z"
    once = masked(text)
    assert masked(once) == once
    assert not re.search(r"[xyz]\b", once)
