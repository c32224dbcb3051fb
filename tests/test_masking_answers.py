from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter
from hypothesis import given
from hypothesis import strategies as st

from celery_stats.control.question import FIELDS
from celery_stats.masking.answers import mask, safe_error
from celery_stats.masking.jsonsafe import CYCLIC, jsonsafe
from tests.test_masking_jsonsafe import anything, exact

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


class Members(SafeExceptionReporterFilter):
    """A project that shows no keyword arguments and no broker."""

    hidden_settings = re.compile("kwargs|broker")


class ByValue(SafeExceptionReporterFilter):
    """A project that goes by values as well, and lets booleans pass."""

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.startswith("4111"):
            return "(card)"
        return super().cleanse_setting(key, value)


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


@pytest.mark.parametrize("secret", ["text", 7, 1.5, True, ["a"], {"a": 1}, b"x", ("a",), {"a"}])
def test_mask__secrets_of_any_kind(secret: Any) -> None:
    assert masked_task(kwargs={"password": secret})["kwargs"] == {"password": STARS}


def test_mask__none_is_no_secret() -> None:
    assert masked_task(kwargs={"password": None})["kwargs"] == {"password": None}


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
        # No repr of a dict, so that nobody knows what it says.
        ("hunter2", STARS),
        ("<hunter2>", STARS),
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
        ("https://h/a?x=1&api_key=hunter2#end", f"https://h/a?x=1&api_key={STARS}#end"),
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
        "cycle": CYCLIC,
    }
    assert masked["revoked"] == {WORKER: ["a"]}
    json.dumps(masked, allow_nan=False)


def test_mask__what_holds_itself() -> None:
    task = a_task(kwargs={"password": "hunter2"})
    task["request"] = task
    masked = mask({"active": {WORKER: [task]}})["active"][WORKER][0]
    assert masked["request"] == CYCLIC
    assert masked["kwargs"] == {"password": STARS}


def test_mask__deep_arguments() -> None:
    deep: Any = {}
    for _ in range(10_000):
        deep = {"a": [deep], "password": "hunter2"}
    text = json.dumps(mask({"active": {WORKER: [a_task(kwargs=deep, args=[deep])]}}))
    assert STARS in text
    assert "hunter2" not in text


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


@pytest.mark.parametrize("project_filter", [Members], indirect=True)
def test_mask__members_that_the_project_hides(project_filter: None) -> None:
    task = masked_task(args=[1], kwargs={"a": 1})
    assert task["args"] == [1]
    assert task["kwargs"] == STARS
    assert masked_broker({"hostname": "h"}) == STARS


@pytest.mark.parametrize("project_filter", [ByValue], indirect=True)
def test_mask__values_that_the_project_knows(project_filter: None) -> None:
    kwargs = {"a": [{"b": "4111 1111"}], "password": "x", "token": True, "url": "redis://:x@h"}
    task = masked_task(kwargs=kwargs, args=["4111 2222"])
    assert task["args"] == ["(card)"]
    # Such a filter has to be shown every value, which a text does not tell apart.
    assert masked_task(kwargs="{'a': '4111'}")["kwargs"] == STARS
    assert task["kwargs"] == {
        "a": [{"b": "(card)"}],
        "password": STARS,
        "token": True,
        "url": f"redis://:{STARS}@h",
    }
    broker = {"ssl": {"keyfile": "x", "check": "4111"}, "alternates": ["redis://:x@h"]}
    assert masked_broker(broker) == {
        "ssl": {"keyfile": STARS, "check": "(card)"},
        "alternates": [f"redis://:{STARS}@h"],
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
        ("it is hunter2", ["redis://h?password=hunter2"], f"OSError: it is {STARS}"),
        ("h:6379 refused", ["redis://h:6379/0", ""], "OSError: h:6379 refused"),
    ],
)
def test_safe_error(message: str, urls: list[str], expected: str) -> None:
    assert safe_error(OSError(message), urls) == expected


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
