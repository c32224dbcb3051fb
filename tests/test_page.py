from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.core.cache.backends.locmem import LocMemCache
from django.test import Client
from django.utils import translation
from django.utils.timezone import override
from rest_framework.throttling import UserRateThrottle

from celery_stats import views
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.control.question import Question
from celery_stats.page import fleet as page
from celery_stats.page import tasks as task_rows
from celery_stats.page import text as formatting
from celery_stats.page.messages import error_message
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.accounts.models import User
from tests.answers import ANSWERS, EMPTY, HOSTILE, NOW, STATS, TASK
from tests.brokers import MakeBroker, Use
from tests.processes import wait_until

URL = "/api/celery-stats/"


class Elements(HTMLParser):
    """Collects each element with its attributes, and the text that a person sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def context(
    answer: dict[str, Any], task_ids: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    given = {"missing": {}, "taken_at": NOW, "elapsed": 0.0123, **options}
    question = Question(task_ids=tuple(dict.fromkeys(task_ids)))
    return page.page(Report({**EMPTY, **answer}, **given, question=question))


@pytest.fixture
def browser_client(support_user: User) -> Client:
    """A client with the session of a support user and the headers of a browser."""
    client = Client(headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    client.force_login(support_user)
    return client


@pytest.fixture
def show(browser_client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Elements]:
    """Put a recorded answer through the view, the renderer and the templates."""

    def render(answer: dict[str, Any], query: str = "", **options: Any) -> Elements:
        given = {"missing": {}, "taken_at": NOW, "elapsed": 0.0123, **options}
        report = Report({**EMPTY, **answer}, **given)
        monkeypatch.setattr(
            views, "share_report", lambda question, options: replace(report, question=question)
        )
        response = browser_client.get(f"{URL}{query}")
        assert response.status_code == 200
        return Elements(response.content.decode())

    return render


# Values


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (86400, "1 day"),
        (86460, "1 day"),
        (93784, "1 day 2 h"),
        (3 * 86400 * 1000, "3,000 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_times_of_rows__in_the_time_zone_of_the_project(
    show: Callable[..., Elements], settings: Any
) -> None:
    settings.TIME_ZONE = "Asia/Kathmandu"
    held = {"eta": "2026-03-01T13:00:00+01:00", "request": {**TASK, "id": "held"}}
    shown = show({**ANSWERS, "scheduled": {"a@h": [held]}})
    times = {
        attrs["data-label"]: attrs["title"]
        for name, attrs in shown.elements
        if name == "td" and attrs.get("class") == "when"
    }
    assert times == {
        "Running for": "2026-03-01 17:43:55+05:45",
        "Due": "2026-03-01 17:45:00+05:45",
    }


@pytest.mark.parametrize(
    ("zone", "moment"), [("Pacific/Auckland", datetime.max), ("America/Los_Angeles", datetime.min)]
)
def test_format_time__beyond_the_calendar_of_the_zone(zone: str, moment: datetime) -> None:
    with override(zone):
        assert formatting.format_time(moment.replace(tzinfo=timezone.utc)) == ""
        assert formatting.format_time(NOW) != ""


def test_shorten() -> None:
    assert formatting.shorten("short") == ("short", "")
    assert formatting.shorten("x" * 201) == ("x" * 199 + "…", "x" * 201)
    assert formatting.shorten("x" * 10_000).title == "x" * 500 + "…"
    assert formatting.shorten({"a": 1}).shown == "{'a': 1}"


def test_details__no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DETAILS_LENGTH", 1000)
    long = {"total": {f"task {n}": n for n in range(60)}, "rusage": {"utime": "'" * 400}}
    shown = context({"stats": {"a@h": STATS, "b@h": long, "c@h": STATS}})["workers"].items
    assert [[title for title, _ in worker.details] for worker in shown] == [
        ["Tasks by name", "Processes", "Pool", "Broker", "Resource usage", "Other"],
        ["Tasks by name", "Resource usage"],
        ["Details"],
    ]


def test_pairs__a_long_name_over_many_leaves__cut_before_it_is_repeated() -> None:
    long = "k" * 100_000
    rows = formatting.pairs({long: {long: {str(n): n for n in range(1000)}}, "writes": {"all": 4}})
    assert rows.items[0] == ("k" * 79 + "…", "0", "")
    assert len(rows.items) == formatting.PAIRS_SHOWN
    assert (rows.total.value, rows.note) == (1001, "Showing 60 of 1,001.")
    # What is yielded for a leaf is short, whatever stands above it.
    assert max(len(name) for name, _ in formatting._flatten({long: {"a": {"b": 1}}})) <= 80


def test_count() -> None:
    assert formatting.count(1234567) == (1234567, "1,234,567")
    for value in ("N/A", None, True, [1], {}):
        assert formatting.count(value).value is None


# An answer


def test_worker_row() -> None:
    (row,) = context(ANSWERS)["workers"].items
    assert row.name.shown == "a@h"
    assert row.pool.shown == "prefork"
    assert (row.busy.value, row.slots.value, row.percent) == (1, 4, 25)
    assert row.prefetch.value == 16
    assert row.accepted.shown == "1,500"
    assert row.uptime == "1 day 2 h"
    assert row.memory == "55 MB"
    details = {
        title: {name: shown for name, shown, _ in found.items} for title, found in row.details
    }
    assert list(details["Tasks by name"].items()) == [
        ("reports.build", "1200"),
        ("mail.send", "300"),
    ]
    assert details["Processes"] == {"main": "5", "pool": "7, 8, 9, 10"}
    assert details["Pool"]["writes.inqueues.total"] == "4"
    assert details["Broker"] == {
        "hostname": "broker.internal",
        "transport_options.sentinel_kwargs": "{}",
    }
    assert details["Resource usage"]["utime"] == "0.3"
    assert details["Other"] == {"clock": "27", "gossip.peers": "3"}


def test_totals() -> None:
    answer = {
        **ANSWERS,
        "active": {"a@h": [TASK], "b@h": [TASK, TASK], "c@h": {"error": "no"}},
        # Every worker knows of a revocation. It is counted once.
        "revoked": {"a@h": ["x", "y"], "b@h": ["y"]},
        "stats": {"a@h": STATS, "b@h": STATS, "c@h": "odd"},
        "reserved": None,
    }
    totals = {key: total.value for key, _, total, _ in context(answer)["totals"]}
    assert totals == {
        "active": 3,
        "reserved": None,
        "scheduled": 0,
        "revoked": 2,
        "processed": 3000,
    }
    assert [
        (workers.shown, [task.whole_id for task in tasks])
        for workers, tasks in context(answer)["tasks"]["revoked"].items
    ] == [("a@h", ["x"]), ("a@h, b@h", ["y"])]


def test_active__age_and_arguments() -> None:
    older = {**TASK, "id": "old", "time_start": NOW.timestamp() - 7200}
    unknown = {**TASK, "id": "unknown", "time_start": None}
    ahead = {**TASK, "id": "ahead", "time_start": NOW.timestamp() + 2}
    answer = {**ANSWERS, "active": {"a@h": [unknown, TASK], "b@h": [ahead, older]}}
    rows = context(answer)["tasks"]["active"].items
    assert [(row.whole_id[:8], row.when) for row in rows] == [
        ("old", "2 h"),
        ("82639d59", "1 min 5 s"),
        ("ahead", "0 s"),
        ("unknown", ""),
    ]
    assert rows[1].arguments.shown == "2026, 'March', draft=True"
    assert rows[1].queue.shown == "reports"
    assert rows[1].id.shown == "82639d59…"


def test_arguments__reprs_after_a_retry() -> None:
    shown = task_rows.arguments({"args": "(2026, 'x')", "kwargs": "{'a': 1}"}).shown
    assert shown == "(2026, 'x'), {'a': 1}"
    assert task_rows.arguments({}).shown == ""


def test_scheduled__time_to_go() -> None:
    def entry(task_id: str, eta: Any) -> dict[str, Any]:
        return {"eta": eta, "priority": 6, "request": {**TASK, "id": task_id, "time_start": None}}

    later = (NOW + timedelta(hours=3)).astimezone(timezone(timedelta(hours=-5)))
    answer = {
        **ANSWERS,
        "scheduled": {
            "a@h": [
                entry("later", later.isoformat()),
                entry("naive", "2026-03-01T12:00:00"),
                entry("odd", 17),
                entry("soon", "2026-03-01T12:03:00Z"),
                entry("none", None),
            ],
            "b@h": [entry("past", "2026-03-01T11:59:00+00:00"), "odd entry"],
        },
    }
    rows = context(answer)["tasks"]["scheduled"].items
    assert {row.id.shown: row.when for row in rows} == {
        "past": "due now",
        "soon": "in 3 min",
        "later": "in 3 h",
        "naive": "2026-03-01T12:00:00",
        "odd": "17",
        "none": "",
        "odd entry": "",
    }
    assert [row.id.shown for row in rows[:3]] == ["past", "soon", "later"]


def test_state() -> None:
    some = {**ANSWERS, "active": {"a@h": [], "b@h": []}}
    assert context(ANSWERS)["state"] == "complete"
    assert context(EMPTY)["state"] == "none"
    assert context(EMPTY, missing={"c@h": FIELDS})["state"] == "none"
    assert context(some, missing={"b@h": ("stats",)})["state"] == "partial"
    found = context(some, missing={"b@h": ("stats",), "c@h": ("active", "stats")})
    assert found["state"] == "missing"
    assert [(name.shown, owed, part) for name, _, owed, part in found["missing"]] == [
        ("b@h", "stats", True),
        ("c@h", "active, stats", False),
    ]
    assert [row.missing for row in found["workers"].items] == ["", "stats"]


def test_long_lists_are_cut() -> None:
    tasks = [{**TASK, "id": f"t{n}"} for n in range(2500)]
    many = {f"w{n:03}@h": tasks if n == 0 else [] for n in range(400)}
    found = context({**ANSWERS, "active": many, "revoked": {"a@h": [f"r{n}" for n in range(101)]}})
    assert len(found["tasks"]["active"].items) == 100
    assert found["tasks"]["active"].note == "Showing 100 of 2,500."
    ((_workers, ids),) = found["tasks"]["revoked"].items
    assert (len(ids), found["tasks"]["revoked"].note) == (100, "Showing 100 of 101.")
    assert len(found["workers"].items) == 300
    assert found["workers"].note == "Showing 300 of 401."
    stats = {
        "a@h": {
            **STATS,
            "total": {f"t{n}": n for n in range(70)},
            "x": {str(n): n for n in range(70)},
        }
    }
    (row,) = context({**ANSWERS, "stats": stats})["workers"].items
    assert dict(row.details)["Tasks by name"].note == "Showing 60 of 70."
    assert dict(row.details)["Other"].note == "Showing 60 of 72."


ODD: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, "", "N/A", [], {}, [[]], [None, 1, "x", {}],
    {"error": "broke"}, {"error": ["broke"]}, {"error": None}, {"": {}},
    {"a": {"b": {"c": []}}}, "<b>", "x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:20])
def test_odd_shapes__are_shown(odd: Any, show: Callable[..., Elements]) -> None:
    """The page shows any JSON value in any place, without an error."""
    answers = [{**ANSWERS, name: {"a@h": odd}} for name in FIELDS]
    answers += [{**ANSWERS, "active": {"a@h": [odd, {**TASK, key: odd}]}} for key in TASK]
    answers += [{**ANSWERS, "stats": {"a@h": {**STATS, key: odd}}} for key in STATS]
    answers += [
        {
            **ANSWERS,
            "stats": {"a@h": {**STATS, "pool": {"max-concurrency": odd, "processes": odd}}},
        },
        {**ANSWERS, "stats": {"a@h": {**STATS, "total": {"t": odd}, "rusage": {"maxrss": odd}}}},
        {**ANSWERS, "scheduled": {"a@h": [odd, {"eta": odd, "request": odd}, {"request": TASK}]}},
        {**ANSWERS, "revoked": {"a@h": [odd, odd]}},
        {**ANSWERS, "query_task": {"a@h": {"x": odd}}},
        {**ANSWERS, "query_task": {"a@h": {"x": [odd, odd]}}},
    ]
    for answer in answers:
        shown = show(answer, "?task_id=x")
        assert "a@h" in shown.text


def test_error_reply__is_shown_at_its_worker(show: Callable[..., Elements]) -> None:
    answer = {**ANSWERS, "scheduled": {"a@h": {"error": "KeyError('eta')"}}}
    assert "Its answer for scheduled : KeyError('eta')" in show(answer).text


# The document


def test_document(show: Callable[..., Elements]) -> None:
    shown = show(
        {**ANSWERS, "scheduled": {"a@h": [{"eta": "2026-03-01T12:03:00Z", "request": TASK}]}}
    )
    for text in (
        "Every worker answered", "Answering 1", "Missing 0", "2026-03-01",
        "12 ms", "Processed 1,500", "prefork", "1 of 4", "1 day 2 h", "55 MB", "in 3 min",
        "1 min 5 s", "2026, 'March', draft=True", "broker.internal",
        "No worker that answered knows a revoked task.",
    ):  # fmt: skip
        assert text in shown.text
    copies = [attrs for _, attrs in shown.elements if "data-copy" in attrs]
    assert {attrs["data-copy"] for attrs in copies} == {TASK["id"]}
    assert ("a", {"id": "refresh", "class": "button", "href": ""}) in shown.elements


def test_document__keeps_to_the_policy(show: Callable[..., Elements]) -> None:
    """No inline code, no other host; ids are unique, and each reference has its target."""
    shown = show(ANSWERS, "?task_id=x")
    ids = [attrs["id"] for _, attrs in shown.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in shown.elements:
        assert tag != "style"
        assert tag != "script" or attrs["src"]
        assert not [name for name in attrs if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            assert not re.match(r"\w+:|//", attrs.get(name) or "")
        for name in ("aria-labelledby", "for"):
            assert attrs.get(name) is None or attrs[name] in ids


def test_empty__says_how_to_start_a_worker(show: Callable[..., Elements]) -> None:
    shown = show(EMPTY)
    assert "No worker answered" in shown.text
    assert "celery -A project worker" in shown.text
    assert "worker_enable_remote_control = False answers nobody" in shown.text
    assert "manage.py celery_stats" not in shown.text
    narrowed = show(EMPTY, "?worker=a@h", missing={"a@h": FIELDS})
    assert "celery -A" not in narrowed.text
    assert "manage.py celery_stats" not in narrowed.text
    assert "Only some workers were asked for" in narrowed.text
    assert "No worker that was asked answered" in narrowed.text


def test_empty_and_workers_missing__says_how_to_remove_their_names(
    show: Callable[..., Elements],
) -> None:
    shown = show(EMPTY, missing={"a@h": FIELDS}, keeps_names=True)
    assert "celery -A project worker" in shown.text
    assert "The broker keeps the name of a worker that was killed." in shown.text
    assert "python manage.py celery_stats" in shown.text


def test_missing__by_name_and_what_they_owe(show: Callable[..., Elements]) -> None:
    shown = show(ANSWERS, missing={"a@h": ("revoked",), "<i>@h": FIELDS})
    assert "Workers are missing" in shown.text
    assert "a@h answered in part; not answered: revoked" in shown.text
    assert "<i>@h did not answer" in shown.text


def test_field__not_asked_for(show: Callable[..., Elements]) -> None:
    shown = show({"stats": {"a@h": STATS}}, "?field=stats")
    assert "No worker answered this, or it was not asked for." in shown.text
    assert "knows a revoked task" not in shown.text


def test_json_link__keeps_the_query(show: Callable[..., Elements], settings: Any) -> None:
    def links(shown: Elements) -> list[str | None]:
        return [attrs["href"] for tag, attrs in shown.elements if tag == "a" and "href" in attrs]

    assert "?task_id=a%26b&format=json" in links(show(ANSWERS, "?task_id=a%26b"))
    assert "?format=json" in links(show(ANSWERS, "?format=html"))
    ids = [f"A{number}" for number in range(100)]
    # In lower case they are looked up as well. The JSON takes no more than a hundred.
    query = "&".join(f"task_id={task_id}" for task_id in ids)
    assert f"?{query}&format=json" in links(show(ANSWERS, f"?{query}"))
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "URL_FORMAT_OVERRIDE": None}
    assert not [link for link in links(show(ANSWERS)) if link and "json" in link]


def test_hostile_names__stay_text(show: Callable[..., Elements]) -> None:
    task = {**TASK, **dict.fromkeys(("id", "name", "hostname"), HOSTILE), "args": [HOSTILE]}
    task |= {"kwargs": {HOSTILE: HOSTILE}, "delivery_info": {"routing_key": HOSTILE}}
    stats = {**STATS, "total": {HOSTILE: 1}, "broker": {HOSTILE: HOSTILE}, HOSTILE: [HOSTILE]}
    stats["pool"] = {"implementation": HOSTILE, "processes": [HOSTILE]}
    answer = {
        "active": {HOSTILE: [task]},
        "scheduled": {HOSTILE: [{"eta": HOSTILE, "request": task}]},
        "reserved": {HOSTILE: {"error": HOSTILE}},
        "revoked": {HOSTILE: [HOSTILE]},
        "query_task": {HOSTILE: {"x": [HOSTILE, task]}},
        "stats": {HOSTILE: stats},
    }
    shown = show(answer, "?task_id=x", missing={HOSTILE: (HOSTILE,), f"b{HOSTILE}": (HOSTILE,)})
    assert not {"img"} & {tag for tag, _ in shown.elements}
    assert [tag for tag, _ in shown.elements].count("script") == 4
    assert not [attrs for _, attrs in shown.elements for name in attrs if name.startswith("on")]
    assert HOSTILE in shown.texts


def test_control_characters__shown_as_such(show: Callable[..., Elements]) -> None:
    name = "a\x1b]0;b\x07\x9b31m\r\x00c"
    shown = show({**ANSWERS, "reserved": {"a@h": [{**TASK, "id": name, "name": name}]}})
    assert "a\ufffd]0;b\ufffd\ufffd31m\ufffd\ufffdc" in shown.texts


def test_long_strings__are_cut_on_the_server(show: Callable[..., Elements]) -> None:
    long = "x" * 10_000
    task = {**TASK, "id": long, "name": long, "args": [long], "kwargs": {long: long}}
    answer = {
        **ANSWERS,
        "active": {long: [task]},
        "revoked": {long: [long]},
        "stats": {long: {**STATS, "broker": {long: long}, "total": {long: 1}, long: long}},
    }
    shown = show(answer, missing={long: ("stats",)})
    longest = max(
        len(text)
        for text in [
            *shown.texts,
            *(v or "" for _, attrs in shown.elements for v in attrs.values()),
        ]
    )
    assert longest <= formatting.TITLE_LENGTH + 1
    assert not [attrs for _, attrs in shown.elements if attrs.get("data-copy")]


def test_language__english_in_any_project(show: Callable[..., Elements], settings: Any) -> None:
    """Django would translate numbers and dates, and nothing else of the page."""
    settings.USE_THOUSAND_SEPARATOR = True
    with translation.override("de"):
        shown = show({**ANSWERS, "reserved": {"a@h": [TASK] * 1500}}, "?task_id=x")
    assert ("html", {"lang": "en", "dir": "ltr"}) in shown.elements
    for text in ("Processed 1,500", "1 day 2 h", "2026-03-01 06:00:00 CST", "12 ms", "55 MB"):
        assert text in shown.text
    values = [attrs["value"] for tag, attrs in shown.elements if tag == "data"]
    assert values == ["1", "1500", "0", "0", "1500"]


# Representations and refusals


def test_browsers_get_the_page_and_clients_json(
    browser_client: Client, show: Callable[..., Elements]
) -> None:
    show(ANSWERS)  # It also sets the report for the requests below.

    def kind(query: str = "", **headers: str) -> str:
        response = browser_client.get(f"{URL}{query}", headers=headers)
        assert response.status_code == 200
        return str(response["Content-Type"])

    assert kind() == "text/html; charset=utf-8"
    assert kind(accept="*/*") == "application/json"
    assert kind(accept="application/json") == "application/json"
    assert kind("?format=json") == "application/json"
    assert kind("?format=html", accept="*/*") == "text/html; charset=utf-8"


def test_headers(browser_client: Client, show: Callable[..., Elements], settings: Any) -> None:
    show(ANSWERS, missing={"c@h": ("stats",)})
    response = browser_client.get(URL)
    assert response["Cache-Control"] == "no-store"
    assert "default-src 'none'; script-src 'self'; " in response["Content-Security-Policy"]
    assert "Accept" in response["Vary"]
    settings.STATIC_URL = "https://cdn.example.org/files/"
    policy = browser_client.get(URL)["Content-Security-Policy"]
    assert "script-src 'self' https://cdn.example.org; " in policy
    assert "Content-Security-Policy" not in browser_client.get(f"{URL}?format=json")


def test_broker_unavailable__page_says_so(
    browser_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: Any, **kwargs: Any) -> Report:
        raise BrokerUnavailable("redis://:secret@broker")

    monkeypatch.setattr(views, "share_report", down)
    response = browser_client.get(URL)
    assert response.status_code == 503
    assert response["Retry-After"]
    text = Elements(response.content.decode()).text
    assert "The log of the web server says why." in text
    assert "secret" not in text


def test_text_that_holds_no_id__refused_as_by_the_command(browser_client: Client) -> None:
    response = browser_client.get(URL, {"task_id": '"' * 256})
    assert response.status_code == 400
    text = Elements(response.content.decode()).text
    assert "task_id : A value may have at most 255 characters." in text


def test_spaces_alone__nothing_is_looked_up(browser_client: Client, settings: Any) -> None:
    settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.nowhere:app"}
    assert browser_client.get(URL, {"task_id": " "}).status_code == 503


def test_wrong_query__page_names_the_parameter(browser_client: Client) -> None:
    response = browser_client.get(f"{URL}?<b>=1&field=nope")
    assert response.status_code == 400
    shown = Elements(response.content.decode())
    assert "<b>" in shown.texts
    assert "field" in shown.texts


def test_collectstatic_not_run__page_without_its_looks(
    show: Callable[..., Elements], settings: Any, tmp_path: Path
) -> None:
    manifest = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STORAGES = {"staticfiles": {"BACKEND": manifest}}
    settings.STATIC_ROOT = tmp_path
    shown = show(ANSWERS)
    assert "Every worker answered" in shown.text
    assert {"/static/celery_stats/page.css", "/static/celery_stats/icon.svg"} <= {
        attrs.get("href") for tag, attrs in shown.elements if tag == "link"
    }


def test_ordinary_user__page_says_who_is_not_allowed(db: None) -> None:
    client = Client(headers={"accept": "text/html"})
    client.force_login(User.objects.create_user("ordinary"))
    response = client.get(URL)
    assert response.status_code == 403
    shown = Elements(response.content.decode())
    for text in ("You may not see this page", "You are logged in as ordinary.", "permission"):
        assert text in shown.text
    assert "session" not in shown.text
    # There is no script that could ask again.
    assert "script" not in {tag for tag, _ in shown.elements}


def test_logged_in_otherwise__not_sent_to_log_in_again(
    browser_client: Client, settings: Any
) -> None:
    token = "rest_framework.authentication.TokenAuthentication"
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "AUTHENTICATION_CLASSES": [token]}
    response = browser_client.get(URL)
    assert response.status_code == 401
    text = Elements(response.content.decode()).text
    assert "Your session is not accepted here You are logged in as support." in text
    assert Client(headers={"accept": "text/html"}).get(URL).status_code == 302


def test_throttled__page_does_not_ask_again(browser_client: Client, settings: Any) -> None:
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"user": "1/day"},
    }

    class Throttle(UserRateThrottle):
        rate = "1/day"
        cache = LocMemCache("throttled", {})

    settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.nowhere:app"}
    view = views.CeleryStatsView
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "throttle_classes", [Throttle])
        assert browser_client.get(URL).status_code == 503
        response = browser_client.get(URL)
    assert response.status_code == 429
    shown = Elements(response.content.decode())
    assert "Too many requests Wait a moment, then load the page again." in shown.text
    assert "script" not in {tag for tag, _ in shown.elements}


def test_options__page_about_the_endpoint(browser_client: Client) -> None:
    response = browser_client.options(URL, headers={"accept": "text/html"})
    assert response.status_code == 200
    shown = Elements(response.content.decode())
    for text in (
        "Get Celery worker statistics",
        "A snapshot of every Celery worker",
        "Answers with : application/json, text/html, application/openmetrics-text, "
        "text/plain; version=0.0.4",
    ):
        assert text in shown.text
    assert "script" not in {tag for tag, _ in shown.elements}


def test_error_message__any_shape() -> None:
    for data in ({"detail": "no"}, {"field": ["a", "b"]}, ["a"], "a", None, {"x": {"y": 1}}):
        assert error_message(data, 418, "", "")["heading"] == "The page cannot be shown"
        assert error_message(data, 400, "", "")["messages"]


# Real workers


def test_page_of_real_workers(use: Use, make_broker: MakeBroker, browser_client: Client) -> None:
    broker = use(make_broker("redis", "one@page", "two@page"))
    running = broker.send("<b>", seconds=60)
    held = broker.send(countdown=600)

    def both() -> Any:
        answer = browser_client.get(f"{URL}?format=json").json()
        return any(answer["active"].values()) and any(answer["scheduled"].values())

    wait_until(both, what="the tasks")
    shown = Elements(browser_client.get(f"{URL}?task_id={running}").content.decode())
    assert "Every worker answered" in shown.text
    assert "Answering 2" in shown.text
    ids = [attrs["data-copy"] for _, attrs in shown.elements if "data-copy" in attrs]
    assert sorted(set(ids) & {running, held}) == sorted([running, held])
    assert re.search(r"Running on (one|two)@page for \d s, since \d\d:\d\d\.", shown.text)
    assert "'<b>', seconds=60" in shown.text
    assert re.search(r"in (9 min|10 min)", shown.text)
