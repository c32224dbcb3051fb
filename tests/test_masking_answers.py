"""What callers see of what workers send: masked, and JSON whatever it was."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections import ChainMap, OrderedDict, UserDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from django.test import override_settings
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.renderers import JSONRenderer

from celery_stats.masking.answers import CUT, MAX_LEVELS, MAX_REPR, jsonsafe, safe_error
from celery_stats.shapes import FIELDS
from tests.answers import mask

STARS = SafeExceptionReporterFilter.cleansed_substitute
WORKER = "celery@one"
SECRET = "hunter2"


def a_task(**parts: Any) -> dict[str, Any]:
    return {
        "id": "5b1f",
        "name": "accounts.tasks.reset_password",
        "args": [],
        "kwargs": {},
        "type": "accounts.tasks.reset_password",
        "hostname": WORKER,
        "time_start": 1.5,
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": "api_key", "priority": 0},
        "worker_pid": 1,
        **parts,
    }


def masked_task(**parts: Any) -> Any:
    answers = {"active": {WORKER: [a_task(**parts)]}}
    before = copy.deepcopy(answers)
    masked = mask(answers)
    assert answers == before
    task = masked["active"][WORKER][0]
    assert {**task, "args": 0, "kwargs": 0} == a_task(args=0, kwargs=0)
    return task


def masked_broker(broker: Any) -> Any:
    reply = {"total": {"accounts.reset_password": 3}, "broker": broker, "pid": 7}
    masked = mask({"stats": {WORKER: reply}})["stats"][WORKER]
    assert {**masked, "broker": broker} == reply
    return masked["broker"]


class Hinting(SafeExceptionReporterFilter):
    """A project that has other names in mind, and shows other stars."""

    cleansed_substitute = "(hidden)"
    hidden_settings = re.compile("iban")


class Posts(SafeExceptionReporterFilter):
    """A project that changes what is shown of requests, and no names."""

    def get_post_parameters(self, request: Any) -> Any:
        return {}


class OwnMethod(SafeExceptionReporterFilter):
    """A project that overrides the method."""

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        return self.cleansed_substitute if key == "iban" else value


class Bare:
    """A filter as Django requires it in production, without a cleanser."""

    def is_active(self, request: Any) -> bool:
        return True


@pytest.fixture
def project_filter(request: pytest.FixtureRequest) -> Iterator[None]:
    path = f"{__name__}.{request.param.__name__}"
    get_default_exception_reporter_filter.cache_clear()
    with override_settings(DEFAULT_EXCEPTION_REPORTER_FILTER=path):
        yield
    get_default_exception_reporter_filter.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "db_passwd",
        "api_key",
        "ApiKey",
        "token",
        "client_secret",
        # Not in the pattern of every supported Django, or of any.
        "Authorization",
        "Cookie",
        "credentials",
        "pwd",
    ],
)
def test_mask__secret_names(name: str) -> None:
    kwargs = {"user": "ada", name: "hunter2"}
    assert masked_task(kwargs=kwargs)["kwargs"] == {"user": "ada", name: STARS}


@pytest.mark.parametrize("secret", ["text", 7, 1.5, ["a"], {"a": 1}, b"x", ("a",), {"a"}])
def test_mask__secrets_of_any_kind(secret: Any) -> None:
    assert masked_task(kwargs={"password": secret})["kwargs"] == {"password": STARS}


@pytest.mark.parametrize("value", [None, True, "", [], "***", "${KEY}", "{{ key }}", "<your-key>"])
def test_mask__no_credential_under_a_secret_name__stays(value: Any) -> None:
    assert masked_task(kwargs={"password": value})["kwargs"] == {"password": value}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            [["Authorization", "hunter2"], ("Accept", "text/csv")],
            [["Authorization", STARS], ["Accept", "text/csv"]],
        ),
        ([["token", None], ["password"]], [["token", None], ["password"]]),
        ([["token", ["a", "b"]]], [["token", STARS]]),
        # A list of its own is none: these may be the names of columns.
        ({"fields": ["password", "email"]}, {"fields": ["password", "email"]}),
        ([{"name": "TOKEN", "value": "x"}], [{"name": "TOKEN", "value": STARS}]),
        ([{"Key": "TOKEN", "Value": "x"}], [{"Key": "TOKEN", "Value": STARS}]),
        ([{"name": "a", "value": "x"}] * 2, [{"name": "a", "value": "x"}] * 2),
        (
            [{"name": "a", "value": "x"}, {"name": "TOKEN", "value": "x"}],
            [{"name": "a", "value": "x"}, {"name": "TOKEN", "value": STARS}],
        ),
        (["run", "--token", "x", "--page", "3"], ["run", "--token", STARS, "--page", "3"]),
        (["run", "--token", "--page"], ["run", "--token", "--page"]),
        (["run", "--token"], ["run", "--token"]),
        (["--token=x", "run"], [f"--token={STARS}", "run"]),
        # Short texts are searched, too.
        (
            ["<pwd>x</pwd>", "('token','x')", ""],
            [f"<pwd>{STARS}</pwd>", f"('token','{STARS}')", ""],
        ),
    ],
    ids=repr,
)
def test_mask__pairs_as_mappings(value: Any, expected: Any) -> None:
    task = masked_task(args=[value], kwargs={"a": value})
    assert task["args"] == [expected]
    assert task["kwargs"] == {"a": expected}


def test_mask__credentials_in_keys() -> None:
    kwargs = {"redis://:x@h": 1, "redis://:y@h": 2, "https://h/?token=z": 3, "plain": 4}
    assert masked_task(kwargs=kwargs)["kwargs"] == {
        f"redis://:{STARS}@h": 1,
        f"redis://:{STARS}@h (2)": 2,
        f"https://h/?token={STARS}": 3,
        "plain": 4,
    }


def test_mask__texts_that_were_harmless_under_another_name() -> None:
    args = [{"a": "hunter2 and more of it", "password": "hunter2 and more of it"}]
    assert masked_task(args=args)["args"] == [{"a": "hunter2 and more of it", "password": STARS}]


def test_mask__at_any_depth() -> None:
    deep = [{"a": ({"b": [{"password": "hunter2", "c": 1}]},)}]
    expected = [{"a": [{"b": [{"password": STARS, "c": 1}]}]}]
    task = masked_task(args=["hunter2 has no name", deep], kwargs={"deep": deep})
    assert task["kwargs"] == {"deep": expected}
    assert task["args"] == ["hunter2 has no name", expected]


def test_mask__secret_after_the_same_names_without() -> None:
    # Names are judged once: what was seen as harmless must not cover others.
    args = [{"a": 1}, {"a": 1, "token": "x"}, {"a": 1}, {"token": "y"}]
    assert masked_task(args=args)["args"] == [
        {"a": 1},
        {"a": 1, "token": STARS},
        {"a": 1},
        {"token": STARS},
    ]


def test_mask__names_that_are_not_text() -> None:
    assert masked_task(kwargs={b"password": "x", 1: "y"})["kwargs"] == {
        "password": STARS,
        "1": "y",
    }


def test_mask__arguments_under_a_name_that_is_not_text() -> None:
    masked = mask({"active": {WORKER: [{b"kwargs": {"password": "x"}}]}})
    assert masked["active"][WORKER] == [{"kwargs": {"password": STARS}}]


@pytest.mark.parametrize(
    ("field", "wrap"),
    [
        ("active", lambda task: [task]),
        ("reserved", lambda task: [task]),
        ("scheduled", lambda task: [{"eta": "03:04:05", "priority": 6, "request": task}]),
        ("query_task", lambda task: {"5b1f": ["active", task]}),
        ("query_task", lambda task: {"5b1f": ("active", task)}),
    ],
)
@pytest.mark.parametrize("hide_arguments", [False, True])
def test_mask__in_every_field(field: str, wrap: Any, hide_arguments: bool) -> None:
    task = a_task(args=[{"token": "x"}], kwargs={"password": "hunter2", "a": 1})
    expected = a_task(args=[{"token": STARS}], kwargs={"password": STARS, "a": 1})
    if hide_arguments:
        expected = a_task(args=STARS, kwargs=STARS)
    masked = mask({field: {WORKER: wrap(task)}}, hide_arguments=hide_arguments)
    assert masked == {field: {WORKER: jsonsafe(wrap(expected))}}


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ("{'a': 1}", "{'a': 1}"),
        (b"{'a': 1}", "{'a': 1}"),
        ("{}", "{}"),
        ("", ""),
        ("...", "..."),
        ("{'a': 1, 'password': 'hunter2', 'b': 2}", f"{{'a': 1, 'password': '{STARS}', 'b': 2}}"),
        ("{'password': 'hun...', ...}", f"{{'password': '{STARS}', ...}}"),
        ("{'password': 'hun", f"{{'password': '{STARS}"),
        ("{'password': ['a', {'b': 2}], 'c': 3}", f"{{'password': {STARS}, 'c': 3}}"),
        ("{'password': <Secret hunter2>, 'c': 3}", f"{{'password': {STARS}, 'c': 3}}"),
        # As Celery writes them: neither backslashes nor the quotes in bytes are escaped.
        ("{'password': 'hun\\\\'ter2', 'c': 3}", f"{{'password': '{STARS}', 'c': 3}}"),
        ("{'password': b'hun'ter2', 'c': 3}", f"{{'password': b'{STARS}', 'c': 3}}"),
    ],
)
def test_mask__kwargs_as_a_repr(kwargs: Any, expected: str) -> None:
    assert masked_task(kwargs=kwargs)["kwargs"] == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("(1, 'a', {'b': 2})", "(1, 'a', {'b': 2})"),
        ("({'user': 1, 'password': 'hunter2'},)", f"({{'user': 1, 'password': '{STARS}'}},)"),
        ('({"a": {"token": 1}},)', f'({{"a": {{"token": {STARS}}}}},)'),
        ("(Login(user='ada', password='hunter2'),)", f"(Login(user='ada', password='{STARS}'),)"),
        ("('redis://u:hunter2@h/0',)", f"('redis://u:{STARS}@h/0',)"),
        ("('password',)", "('password',)"),
    ],
)
def test_mask__args_as_a_repr(args: str, expected: str) -> None:
    assert masked_task(args=args)["args"] == expected


def test_mask__objects_that_tell_secrets() -> None:
    class Login:
        def __init__(self, text: str) -> None:
            self.text = text

        def __repr__(self) -> str:
            return self.text

    args = [Login("Login(password='x')"), Login("Login(user='ada')"), Login("<redis://:x@h>")]
    masked = mask({"active": {WORKER: [a_task(args=args)]}})
    assert masked["active"][WORKER][0]["args"] == [
        f"Login(password='{STARS}')",
        "Login(user='ada')",
        f"<redis://:{STARS}@h>",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://u:hunter2@h/db", f"postgres://u:{STARS}@h/db"),
        ("postgres://u:hun@ter2@h/db", f"postgres://u:{STARS}@h/db"),
        ("redis://:hunter2@h:6379/0", f"redis://:{STARS}@h:6379/0"),
        ("https://ghp_hunter2@github.com/a/b", f"https://{STARS}@github.com/a/b"),
        ("https://h/a?api_key=hunter2&x=1#end", f"https://h/a?api_key={STARS}&x=1#end"),
        ("at redis://:a@h and amqp://u:b@h.", f"at redis://:{STARS}@h and amqp://u:{STARS}@h."),
        ("redis://u:@h", "redis://u:@h"),
        ("redis://u:**@h", "redis://u:**@h"),
        ("https://h:8000/users/@me?page=2", "https://h:8000/users/@me?page=2"),
        ("https://h/?mail=me@example.org", "https://h/?mail=me@example.org"),
        ("2024-01-02T03:04:05 me@example.org", "2024-01-02T03:04:05 me@example.org"),
    ],
)
def test_mask__urls_in_arguments(text: str, expected: str) -> None:
    task = masked_task(args=[text], kwargs={"a": {"b": [text]}})
    assert task["args"] == [expected]
    assert task["kwargs"] == {"a": {"b": [expected]}}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:hunter2@h:6379/0", f"redis://:{STARS}@h:6379/0"),
        ("amqp://u:hun%40ter2@h//", f"amqp://u:{STARS}@h//"),
        ("amqp://u:hun@t:er2@h//", f"amqp://u:{STARS}@h//"),
        (
            "sentinel://:a@h1:1;sentinel://:b@h2:2",
            f"sentinel://:{STARS}@h1:1;sentinel://:{STARS}@h2:2",
        ),
        ("azurestoragequeues://k/e+y==@https://h", f"azurestoragequeues://{STARS}@https://h"),
        ("azureservicebus://policy:k/e+y=@ns", f"azureservicebus://policy:{STARS}@ns"),
        ("sqla+postgresql://u:p w@h/db", f"sqla+postgresql://u:{STARS}@h/db"),
        ("u:hunter2@h", f"u:{STARS}@h"),
        ("rediss://h/0?password=hunter2&x=1", f"rediss://h/0?password={STARS}&x=1"),
        ("redis://:**@h", "redis://:**@h"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("rabbit.example.org", "rabbit.example.org"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_mask__broker_urls(url: str, expected: str) -> None:
    broker = {"hostname": url, "alternates": [url, url], "port": 6379, "userid": "guest"}
    assert masked_broker(broker) == {
        **broker,
        "hostname": expected,
        "alternates": [expected, expected],
    }


def test_mask__broker_options() -> None:
    broker = {
        "transport": "redis",
        "userid": "guest",
        "virtual_host": "/",
        "credential_provider": None,
        "ssl": {
            "ssl_certfile": "/c",
            "ssl_keyfile": "/k",
            "ssl_password": "x",
            "ssl_cert_reqs": 2,
        },
        "transport_options": {
            "visibility_timeout": 3600,
            "sentinel_kwargs": {"password": "x", "socket_timeout": 1},
            "predefined_queues": {"q": {"url": "https://u:x@h/q", "secret_access_key": "x"}},
            "nodes": [{"a": [{"credentials": {"user": "u"}}]}],
        },
    }
    assert masked_broker(broker) == {
        **broker,
        "ssl": {
            "ssl_certfile": "/c",
            "ssl_keyfile": "/k",
            "ssl_password": STARS,
            "ssl_cert_reqs": 2,
        },
        "transport_options": {
            "visibility_timeout": 3600,
            "sentinel_kwargs": {"password": STARS, "socket_timeout": 1},
            "predefined_queues": {
                "q": {"url": f"https://u:{STARS}@h/q", "secret_access_key": STARS}
            },
            "nodes": [{"a": [{"credentials": STARS}]}],
        },
    }


@pytest.mark.parametrize("broker", ["N/A", None, [], 7])
def test_mask__broker_of_odd_shape(broker: Any) -> None:
    assert masked_broker(broker) == broker


def test_mask__only_the_broker_of_statistics() -> None:
    reply = {"total": {"reset_password": 3}, "pool": {"key": 1}, "rusage": "N/A", "token": "x"}
    assert mask({"stats": {WORKER: reply}}) == {"stats": {WORKER: reply}}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("hide_arguments", [False, True])
@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize(
    "reply",
    [
        {"error": "KeyError('a')"},
        "text",
        None,
        7,
        [],
        {},
        [None, [], "a"],
        [[{"a": "b"}]],
        {"a": [None, 1]},
        {"request": None},
    ],
)
def test_mask__odd_replies_pass(
    field: str, reply: Any, hide_arguments: bool, redact: bool
) -> None:
    answers = {field: {WORKER: reply, "args": reply}}
    assert mask(answers, redact=redact, hide_arguments=hide_arguments) == answers


@pytest.mark.parametrize("field", ["active", "revoked", "query_task", "stats"])
def test_mask__error_that_quotes_a_url(field: str) -> None:
    masked = mask({field: {WORKER: {"error": "no answer from redis://:hunter2@h/0"}}})
    assert masked == {field: {WORKER: {"error": f"no answer from redis://:{STARS}@h/0"}}}


def test_mask__error_that_quotes_a_password() -> None:
    masked = mask({"active": {WORKER: {"error": "no answer, password=hunter2"}}})
    assert masked == {"active": {WORKER: {"error": f"no answer, password={STARS}"}}}


def test_mask__odd_arguments() -> None:
    for odd in (None, 7, 1.5, True, []):
        task = masked_task(args=odd, kwargs=odd)
        assert task["args"] == odd
        assert task["kwargs"] == odd


def test_mask__no_answers() -> None:
    answers = {"active": None, "stats": None, "query_task": {}}
    assert mask(answers, hide_arguments=True) == answers


def test_mask__the_result_is_json() -> None:
    kwargs: dict[str, Any] = {"odd": {1, 2}, "nan": float("nan"), "password": b"x"}
    kwargs["cycle"] = kwargs
    answers = {"active": {WORKER: [a_task(kwargs=kwargs)]}, "revoked": {WORKER: {"a"}}}
    masked = mask(answers)
    assert masked["active"][WORKER][0]["kwargs"] == {
        "odd": [1, 2],
        "nan": "NaN",
        "password": STARS,
        "cycle": CUT,
    }
    assert masked["revoked"] == {WORKER: ["a"]}
    json.dumps(masked, allow_nan=False)


def test_mask__what_holds_itself() -> None:
    task = a_task(kwargs={"password": "hunter2"})
    task["request"] = task
    masked = mask({"active": {WORKER: [task]}})["active"][WORKER][0]
    assert masked["request"] == CUT
    assert masked["kwargs"] == {"password": STARS}


def test_mask__deep_arguments() -> None:
    deep: Any = {}
    for _ in range(10_000):
        deep = {"a": [deep], "password": "hunter2"}
    text = json.dumps(mask({"active": {WORKER: [a_task(kwargs=deep, args=[deep])]}}))
    assert STARS in text
    assert "hunter2" not in text


@pytest.mark.parametrize("redact", [False, True])
def test_mask__hidden_arguments__are_not_looked_at(redact: bool) -> None:
    class Untouchable:
        def __repr__(self) -> str:
            looked.append(self)
            return "x"

    looked: list[Any] = []
    task = a_task(args=[Untouchable()], kwargs={"a": Untouchable()})
    masked = mask({"active": {WORKER: [task]}}, redact=redact, hide_arguments=True)
    assert masked["active"][WORKER] == [a_task(args=STARS, kwargs=STARS)]
    assert looked == []


def test_mask__off() -> None:
    answers = {
        "active": {WORKER: [a_task(args=[{"token": "x"}], kwargs={"password": "hunter2"})]},
        "stats": {WORKER: {"broker": {"alternates": ["redis://:x@h"], "ssl": {"keyfile": "k"}}}},
    }
    assert mask(answers, redact=False) == answers


def test_mask__off_hides_arguments_all_the_same() -> None:
    broker = {"broker": {"alternates": ["redis://:x@h"]}}
    answers = {"active": {WORKER: [a_task(kwargs={"password": "x"})]}, "stats": {WORKER: broker}}
    assert mask(answers, redact=False, hide_arguments=True) == {
        "active": {WORKER: [a_task(args=STARS, kwargs=STARS)]},
        "stats": {WORKER: broker},
    }


def test_mask__order_is_kept() -> None:
    answers = {
        "active": {"b": [a_task(kwargs={"z": 1, "password": "x", "a": 2})], "a": []},
        "revoked": None,
        "stats": None,
    }
    for hide_arguments in (False, True):
        masked = mask(answers, hide_arguments=hide_arguments)
        assert list(masked) == list(answers)
        assert list(masked["active"]) == ["b", "a"]
        assert list(masked["active"]["b"][0]) == list(a_task())
    assert list(mask(answers)["active"]["b"][0]["kwargs"]) == ["z", "password", "a"]


def test_mask__is_idempotent() -> None:
    answers = {
        "active": {WORKER: [a_task(args=["redis://:x@h"], kwargs={"password": "x"})]},
        "reserved": {WORKER: [a_task(args="({'token': 1},)", kwargs="{'a': 1}")]},
    }
    assert mask(mask(answers)) == mask(answers)


def test_mask__what_has_no_secret_is_shared() -> None:
    task = a_task(args=[1, ["a"]], kwargs={"user": {"name": "ada"}})
    answers = {"active": {WORKER: [task]}, "revoked": {WORKER: ["a", "b"]}}
    assert mask(answers)["active"][WORKER][0] is task


@pytest.mark.parametrize("project_filter", [Hinting], indirect=True)
def test_mask__names_of_the_project(project_filter: None) -> None:
    task = masked_task(args=[{"iban": 1}], kwargs={"iban": "DE", "password": "shown", "auth": 1})
    assert task["args"] == [{"iban": "(hidden)"}]
    assert task["kwargs"] == {"iban": "(hidden)", "password": "shown", "auth": 1}
    text = "{'iban': 'DE', 'password': 'shown'}"
    assert masked_task(kwargs=text)["kwargs"] == "{'iban': '(hidden)', 'password': 'shown'}"
    assert masked_task(args=["x iban=DE"])["args"] == ["x iban=(hidden)"]
    # A password in a URL is one whatever names a project has in mind.
    assert masked_broker({"hostname": "redis://:x@h"}) == {"hostname": "redis://:(hidden)@h"}


@pytest.mark.parametrize("project_filter", [OwnMethod], indirect=True)
def test_mask__filter_with_a_method_of_its_own__decides_about_names(project_filter: None) -> None:
    task = masked_task(args=["iban=DE password=x"], kwargs={"iban": "DE", "password": "x"})
    assert task["args"] == [f"iban={STARS} password=x"]
    assert task["kwargs"] == {"iban": STARS, "password": "x"}


@pytest.mark.parametrize("project_filter", [Posts], indirect=True)
def test_mask__filter_that_changes_no_names__these_rules_stay(project_filter: None) -> None:
    kwargs = {"passwort": "x", "key_prefix": "a", "b": "psk=y"}
    assert masked_task(kwargs=kwargs)["kwargs"] == {
        "passwort": STARS,
        "key_prefix": "a",
        "b": f"psk={STARS}",
    }


@pytest.mark.parametrize("project_filter", [Bare], indirect=True)
def test_mask__filter_without_a_cleanser(project_filter: None) -> None:
    assert masked_task(kwargs={"password": "x", "a": 1})["kwargs"] == {"password": STARS, "a": 1}


@pytest.mark.parametrize(
    ("message", "urls", "expected"),
    [
        ("refused", [], "OSError: refused"),
        ("", [], "OSError: "),
        ("no redis://:hunter2@h/0", [], f"OSError: no redis://:{STARS}@h/0"),
        ("AUTH hunter2 failed", ["redis://:hunter2@h/0"], f"OSError: AUTH {STARS} failed"),
        ("AUTH hun@ter2 failed", ["redis://u:hun%40ter2@h"], f"OSError: AUTH {STARS} failed"),
        ("AUTH hun%40ter2 failed", ["redis://u:hun%40ter2@h"], f"OSError: AUTH {STARS} failed"),
        ("AUTH hun%40ter2 failed", ["redis://u:hun@ter2@h"], f"OSError: AUTH {STARS} failed"),
        ("AUTH a/b failed", ["redis://u:a/b@h"], f"OSError: AUTH {STARS} failed"),
        (repr('it\'s "1"'), ["amqp://u:it's%20%221%22@h"], f"OSError: '{STARS}'"),
        ("one two", ["redis://:one@h;redis://:two@h"], f"OSError: {STARS} {STARS}"),
        ("secretlonger", ["redis://:secret@h", "redis://:secretlonger@h"], f"OSError: {STARS}"),
        ("key k/e+y==", ["azurestoragequeues://k/e+y==@https://h"], f"OSError: key {STARS}"),
        ("h:6379 refused", ["redis://h:6379/0", ""], "OSError: h:6379 refused"),
    ],
)
def test_safe_error(message: str, urls: list[str], expected: str) -> None:
    assert safe_error(OSError(message), urls) == expected


# Any value as JSON


Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = 1


class Word(str, Enum):
    YES = "yes"


class Number(IntEnum):
    ONE = 1


class Half(float):
    def __repr__(self) -> str:
        return "half"


class Plain:
    def __repr__(self) -> str:
        return "<Plain>"


class Liar:
    """Says that it is a dict, as lazy objects and mocks do."""

    __class__ = property(lambda self: dict)

    def __repr__(self) -> str:
        return "<Liar>"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Broken(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "<Broken>"


class BrokenZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta | None:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<BrokenZone>"


def strict(data: bytes) -> Any:
    """Parse JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(data.decode(), parse_constant=refuse)


def render(value: Any) -> Any:
    """What a client reads of a value, through REST framework's renderer."""
    return strict(JSONRenderer().render({"value": value}))["value"]


def nested(levels: int, innermost: Any = None) -> Any:
    value = innermost
    for level in range(levels, 0, -1):
        value = [value] if level % 2 else {"a": value}
    return value


UTC = timezone.utc
LONG = 10**5000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (Half(0.5), 0.5),
        (Half("nan"), "NaN"),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        (bytearray(b"\xfe"), "\\xfe"),
        (memoryview(b"ab"), "ab"),
        ("a\ud800b", "a\\ud800b"),
        ({"\udfff": 1}, {"\\udfff": 1}),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({10, 9}), [10, 9]),
        ({1, "a", None}, ["a", 1, None]),
        ({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]]),
        ((1, (2,)), [1, [2]]),
        (deque([1, 2]), [1, 2]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (ChainMap({"a": 1}, {"a": 2}), {"a": 1}),
        (UserDict(a=b"x"), {"a": "x"}),
        ({1: 2, None: 3, True and "t": 4}, {"1": 2, "null": 3, "t": 4}),
        ({False: 0, 1.5: 1}, {"false": 0, "1.5": 1}),
        ({float("inf"): 0, b"k": 1, UUID(int=1): 2}, {"Infinity": 0, "k": 1, str(UUID(int=1)): 2}),
        ({(1, "a"): 0, frozenset(): 1}, {"(1, 'a')": 0, "frozenset()": 1}),
        (datetime(2024, 1, 2, 3, 4, 5, 678901), "2024-01-02T03:04:05.678901"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00Z"),
        (date(2024, 1, 2), "2024-01-02"),
        (time(1, 2, 3), "01:02:03"),
        (time(1, 2, 3, tzinfo=UTC), "01:02:03+00:00"),
        (timedelta(minutes=1.5), "90.0"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.5"), 1.5),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "Decimal('sNaN')"),
        (Decimal("-Infinity"), "-Infinity"),
        (Decimal("1e400"), "1E+400"),
        (gettext_lazy("Monday"), "Monday"),
        (mark_safe("<b>"), "<b>"),
        (Word.YES, "yes"),
        (Number.ONE, 1),
        (Colour.RED, "<Colour.RED: 1>"),
        (Plain(), "<Plain>"),
        (PurePosixPath("/x"), "PurePosixPath('/x')"),
        (range(3), "range(0, 3)"),
        (1j, "1j"),
        (Unprintable(), "<unprintable Unprintable>"),
        (Broken(), "<Broken>"),
        (Liar(), "<Liar>"),
        (2**700, 2**700),
        (2**2100, hex(2**2100)),
        (LONG, hex(LONG)[:MAX_REPR]),
        (-LONG, hex(-LONG)[:MAX_REPR]),
        (KeyError("\ud800"), "KeyError('\\ud800')"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_jsonsafe__odd_value(value: Any, expected: Any) -> None:
    converted = jsonsafe({"value": [value]})["value"][0]
    assert converted == expected
    assert type(converted) is type(expected)
    assert render(converted) == expected


def test_jsonsafe__what_only_breaks_in_use() -> None:
    moment = datetime(2024, 1, 2, tzinfo=BrokenZone())
    assert "BrokenZone" in jsonsafe(moment)
    released = memoryview(b"x")
    released.release()
    assert jsonsafe(released).startswith("<released memory")


def test_jsonsafe__long_repr_is_cut() -> None:
    class Long:
        def __repr__(self) -> str:
            return "x" * 5000

    assert jsonsafe(Long()) == "x" * MAX_REPR


def test_jsonsafe__keys_of_one_text_are_all_kept() -> None:
    value = {1: "int", b"1": "bytes", "1": "str", "1 (2)": "taken", 1.5: "float", "1.5": "str"}
    converted = jsonsafe(value)
    assert converted["1"] == converted["1.5"] == "str"
    assert converted["1 (2)"] == "taken"
    assert sorted(converted.values()) == sorted(value.values())
    assert list(converted.values()) == list(value.values())


def test_jsonsafe__many_keys_of_one_text() -> None:
    class Same:
        def __repr__(self) -> str:
            return "same"

    assert len(jsonsafe({Same(): n for n in range(20_000)})) == 20_000


def test_jsonsafe__names_seen_before_do_not_hide_others() -> None:
    # Names that need no change are remembered: the second object must still be looked at.
    assert jsonsafe([{"a": 1}, {"a": 1, b"b": 2}, {"a": 1, "\ud800": 3}]) == [
        {"a": 1},
        {"a": 1, "b": 2},
        {"a": 1, "\\ud800": 3},
    ]


@pytest.mark.parametrize("make", [list, dict, OrderedDict, deque])
def test_jsonsafe__cycle_is_cut(make: Any) -> None:
    value = make()
    if isinstance(value, dict):
        value.update(one=value, two=[value])
        expected: Any = {"one": CUT, "two": [CUT]}
    else:
        value.extend([value, {"in": value}])
        expected = [CUT, {"in": CUT}]
    assert render(jsonsafe(value)) == expected


def test_jsonsafe__many_ways_round_a_cycle() -> None:
    # By depth alone this would take 2**100 steps.
    value: list[Any] = []
    value += [value, {"again": value}]
    assert jsonsafe([value, value]) == [[CUT, {"again": CUT}]] * 2


def test_jsonsafe__same_object_twice_is_no_cycle() -> None:
    shared = {"a": (1,)}
    assert jsonsafe([shared, shared, {"b": shared}]) == [{"a": [1]}, {"a": [1]}, {"b": {"a": [1]}}]


def test_jsonsafe__hundred_levels_pass() -> None:
    value = nested(MAX_LEVELS, "end")
    assert jsonsafe(value) is value


def test_jsonsafe__the_next_level_is_cut() -> None:
    assert jsonsafe(nested(MAX_LEVELS + 1, "end")) == nested(MAX_LEVELS, CUT)


def test_jsonsafe__more_containers_than_are_passed_on__cut() -> None:
    many = [[[] for _ in range(300_000)], [[] for _ in range(300_000)]]
    converted = jsonsafe(many)
    assert converted[0] == many[0]
    assert converted[1].count([]) == 199_997
    assert converted[1].count(CUT) == 100_003


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}])
def test_jsonsafe__depth_without_end(wrap: Any) -> None:
    value = None
    for _ in range(100_000):
        value = wrap(value)
    assert CUT in json.dumps(jsonsafe(value))
    assert jsonsafe({"key": {(value if isinstance(value, tuple) else 1): 1}})


def test_jsonsafe__input_is_left_alone() -> None:
    value = {"a": [b"x", {"b": {1, 2}}], 1: (float("nan"),)}
    before = pickle.dumps(value)
    jsonsafe(value)
    assert pickle.dumps(value) == before


def test_jsonsafe__unchanged_parts_are_the_same_objects() -> None:
    value = {"same": {"a": ["x", 1, None, True, 1.5, "é", "a:b"]}, "odd": {"a": b"x"}}
    converted = jsonsafe(value)
    assert converted == {"same": value["same"], "odd": {"a": "x"}}
    assert converted["same"] is value["same"]


# Any value that a pickled, YAML or extended JSON reply can hold.
any_text = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**2000).map(lambda n: n**9)
    | st.floats()
    | any_text
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.sampled_from([Colour.RED, Word.YES, Number.ONE, Plain])
    | st.sampled_from([Plain, Unprintable, Broken]).map(lambda kind: kind())
    | any_text.map(KeyError)
)
hashable = st.recursive(
    scalars.filter(lambda value: _is_hashable(value)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(deque)
        | st.sets(hashable, max_size=5)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.dictionaries(any_text, inner, max_size=5).map(OrderedDict)
        | st.dictionaries(any_text, inner, max_size=5).map(MappingProxyType)
    ),
    max_leaves=25,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except (TypeError, ValueError):  # A signalling NaN cannot be hashed.
        return False
    return True


def exact(value: Any) -> bool:
    """Whether nothing but the exact types of JSON is in a value."""
    if type(value) is dict:
        return all(type(key) is str and exact(item) for key, item in value.items())
    if type(value) is list:
        return all(map(exact, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


@given(anything)
def test_jsonsafe__anything_becomes_strict_json(value: Any) -> None:
    converted = jsonsafe(value)
    assert exact(converted)
    assert render(converted) == converted
    json.dumps(converted, allow_nan=False).encode()


@given(anything)
def test_jsonsafe__is_idempotent(value: Any) -> None:
    converted = jsonsafe(value)
    assert jsonsafe(converted) is converted


@given(json_values)
def test_jsonsafe__json_is_not_touched(value: Any) -> None:
    assert jsonsafe(value) is value
    assert json.loads(json.dumps(value)) == value


@given(st.dictionaries(hashable, st.integers()))
def test_jsonsafe__no_entry_is_lost(value: Any) -> None:
    assert list(jsonsafe(value).values()) == list(value.values())


# Both


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=3)
    return lists | lists.map(tuple) | st.dictionaries(st.sampled_from("xyz"), inner, min_size=1)


replies = anything | st.lists(
    st.fixed_dictionaries({"args": anything, "kwargs": anything}) | anything, max_size=3
)


@given(st.sampled_from(FIELDS), replies, st.booleans(), st.booleans())
def test_mask__any_reply_becomes_json(
    field: str, reply: Any, redact: bool, hide_arguments: bool
) -> None:
    masked = mask({field: {WORKER: reply}}, redact=redact, hide_arguments=hide_arguments)
    assert exact(masked)
    assert list(masked[field] or ()) == [WORKER]


@given(st.recursive(st.just({"a": "b", "password": SECRET}), nest, max_leaves=9))
def test_mask__no_secret_is_left_at_any_depth(arguments: Any) -> None:
    task = {"args": arguments, "kwargs": {"deep": arguments}}
    broker = {"broker": {"transport_options": {"deep": arguments}}}
    masked = mask({"active": {WORKER: [task]}, "stats": {WORKER: broker}})
    assert SECRET not in json.dumps(masked)
    assert json.dumps(masked).count(STARS) == 3 * json.dumps(jsonsafe(arguments)).count(SECRET)
