"""What leaves the endpoint when real workers hold secrets and values that are not JSON."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime, timezone
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.test import override_settings
from rest_framework.test import APIClient

from celery_stats import report
from celery_stats.conf import DEFAULTS, conf
from celery_stats.control.question import Extras, Question
from celery_stats.control.snapshot import Snapshot
from celery_stats.control.traces import Backend, Extent, Traces
from celery_stats.masking.answers import CUT
from celery_stats.report import ReportOptions
from tests.brokers import Broker, MakeBroker, RedisServer
from tests.celery_app import Unprintable
from tests.comparison import without_what_changes
from tests.mailbox import Mailbox
from tests.processes import wait_until
from tests.published import load, problems

URL = "/api/celery-stats/"
SECRETS = (
    "url-passw0rd",
    "alternate-passw0rd",
    "sentinel-passw0rd",
    "nested-passw0rd",
    "task-passw0rd",
    "deep-passw0rd",
    "argument-passw0rd",
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strictly(content: bytes) -> Any:
    return json.loads(content.decode(), parse_constant=refuse)


@pytest.fixture
def secretive() -> Iterator[Broker]:
    """A broker whose configuration holds a secret wherever one can be."""
    server = RedisServer("--requirepass", "url-passw0rd")
    broker = Broker(
        "redis",
        f"redis://:url-passw0rd@127.0.0.1:{server.port}/0;"
        f"redis://:alternate-passw0rd@127.0.0.1:{server.port}/0",
        broker_transport_options={
            "sentinel_kwargs": {"password": "sentinel-passw0rd"},
            "client_name": "tests",
            "custom": [{"deeper": {"api_key": "nested-passw0rd"}}],
        },
    )
    yield broker
    broker.close()
    server.stop()


@pytest.mark.broker
def test_secrets__nowhere(
    secretive: Broker, use: Any, api: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    use(secretive).fleet("one@t")
    task_id = secretive.send(
        "amqp://user:argument-passw0rd@host//",
        seconds=600,
        password="task-passw0rd",
        options=[{"headers": {"Api-Token": "deep-passw0rd"}}],
        city="Tallinn",
    )

    def working() -> Any:
        response = api.get(URL, {"task_id": task_id})
        return response if any(response.json()["active"].values()) else None

    response = wait_until(working, what="the task at work")
    answer = response.json()
    others = [
        api.get(URL, {"task_id": task_id}, headers={"Accept": kind}).content.decode()
        for kind in ("text/html", "application/openmetrics-text")
    ]
    for options in ({}, {"json": True}):
        output = StringIO()
        call_command("celery_stats", task_id=[task_id], stdout=output, no_color=True, **options)
        others.append(output.getvalue())
    assert all("one@t" in text for text in others)
    assert "Tallinn" in others[0]
    told = "".join([response.content.decode(), str(response.headers), *others, caplog.text])
    assert [secret for secret in SECRETS if secret in told] == []
    task = answer["active"]["one@t"][0]
    assert task["kwargs"]["city"] == "Tallinn"
    assert task["kwargs"]["password"] == "********************"
    assert answer["stats"]["one@t"]["broker"]["transport_options"]["client_name"] == "tests"
    assert problems(answer, load()) == []

    with override_settings(
        DRF_CELERY_STATS={"CELERY_APP": "tests.celery_app:app", "HIDE_ARGUMENTS": True}
    ):
        hidden = api.get(URL).json()
        assert "Tallinn" not in json.dumps(hidden)
        assert problems(hidden, load()) == []

    with override_settings(
        DRF_CELERY_STATS={"CELERY_APP": "tests.celery_app:app", "REDACT": False}
    ):
        plain = api.get(URL).json()
        # The URLs are masked by workers of Celery 5.7 themselves.
        assert {s for s in SECRETS if s in json.dumps(plain)} >= set(SECRETS[2:])
        inspect = secretive.client().control.inspect()
        reference = {name: getattr(inspect, name)() for name in plain}
        assert without_what_changes(plain) == without_what_changes(reference)


#: What only a pickled reply can carry, and what comes of it.
ODD: dict[str, tuple[Any, Any]] = {
    "nan": (float("nan"), "NaN"),
    "infinite": ([float("inf"), -float("inf")], ["Infinity", "-Infinity"]),
    "bytes": (b"caf\xe9", "caf\\xe9"),
    "surrogate": ("\ud800", "\\ud800"),
    "set": ({3, 1, 2}, [1, 2, 3]),
    "indices": ({1: "a", None: "b", (2, 3): "c"}, {"1": "a", "null": "b", "(2, 3)": "c"}),
    "moment": (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "2026-01-02T03:04:05Z"),
    "uuid": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (Decimal("1.5"), 1.5),
    "object": (Unprintable(), "<unprintable Unprintable>"),
}


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_odd_values__strict_json_and_nobody_else_touched(
    make_broker: MakeBroker, use: Any, api: APIClient
) -> None:
    broker = use(make_broker("redis", "one@t", "two@t", task_serializer="pickle"))
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    odd = {name: value for name, (value, _) in ODD.items()}
    broker.send(seconds=600, **odd, cyclic=cyclic, deep=nested(200))

    def working() -> Any:
        response = api.get(URL)
        return response if any(strictly(response.content)["active"].values()) else None

    response = wait_until(working, what="the odd task at work")
    assert response.status_code == 200
    assert "Celery-Stats-Missing" not in response
    answer = strictly(response.content)
    [task] = [task for tasks in answer["active"].values() for task in tasks]
    assert {name: task["kwargs"][name] for name in ODD} == {n: v for n, (_, v) in ODD.items()}
    assert task["kwargs"]["cyclic"] == [1, CUT]
    assert CUT in json.dumps(task["kwargs"]["deep"])
    assert all(list(answer[name]) == ["one@t", "two@t"] for name in answer)
    assert problems(answer, load()) == []


def test_content_type_not_accepted__no_answer_from_that_worker_alone(
    make_broker: MakeBroker, use: Any, api: APIClient
) -> None:
    broker = make_broker(accept_content=["json"])
    use(broker)
    broker.fleet("json@t")
    broker.fleet("pickle@t", task_serializer="pickle", accept_content=["json", "pickle"])
    with override_settings(
        DRF_CELERY_STATS={"CELERY_APP": "tests.celery_app:app", "TIMEOUT": 0.5}
    ):
        response = api.get(URL)
    assert response.status_code == 200
    assert {name: list(v) for name, v in response.json().items()} == {
        name: ["json@t"] for name in response.json()
    }
    assert response["Celery-Stats-Missing"] == "pickle@t"


#: The settings by which the view decides whom it answers, and which parameters are unknown. No
#: report depends on them. A report may depend on every other setting.
SETTINGS_OF_THE_VIEW = {"PERMISSION_CLASSES", "AUTHENTICATION_CLASSES", "IGNORED_PARAMETERS"}


def other_value(key: str) -> Any:
    """A value that the setting accepts, other than its default."""
    if key == "CELERY_APP":
        return "tests.celery_app:make_app"
    default = DEFAULTS[key]
    return not default if isinstance(default, bool) else default / 2


class TestOptions:
    """Callers share a report where their questions and their options are equal."""

    @pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - SETTINGS_OF_THE_VIEW))
    def test_other_settings__other_options(self, settings: Any, key: str) -> None:
        settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.celery_app:app"}
        before = ReportOptions.from_conf(conf)
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, key: other_value(key)}
        assert ReportOptions.from_conf(conf) != before

    def test_work__gets_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The work gets the key alone, so that it cannot depend on more than the key."""
        asked: list[Any] = []

        def get(key: Any, work: Any, *, deadline: float) -> None:
            asked.append((key, work.func, work.args, work.keywords, deadline))

        monkeypatch.setattr(report._single_flight, "get", get)
        options = ReportOptions(
            "tests.celery_app:app", 1.0, 2.0, redact=False, hide_arguments=False
        )
        report.share_report(Question(), options)
        key = (Question(), options)
        assert asked == [(key, report._take, key, {}, 2.0)]


def test_part_of_the_deadline_is_over__only_the_rest_is_left(make_broker: MakeBroker) -> None:
    """As for a caller who has waited for the snapshot before."""
    broker = make_broker()
    with Mailbox(broker, "one@t", lambda *_: None):
        began = time.monotonic()
        report._take(Question(), ReportOptions(broker.app, 8.0, 10.0, True, False), 0.5)
        assert time.monotonic() - began < 3


def test_snapshot__all_of_it_in_the_report() -> None:
    snapshot = Snapshot(
        answers={"stats": {"one@h": {"pid": 1}}},
        missing={"two@h": ("stats",)},
        taken_at=datetime(2026, 1, 2, tzinfo=timezone.utc),
        elapsed=0.5,
        queues={"celery": 7},
        active_queues={"one@h": [{"name": "celery"}]},
        extras={"one@h": Extras(time=1.7e9)},
        silent_subscribers=3,
        unreadable=4,
        keeps_names=True,
        traces=Traces({}, Backend.NONE, {}, Extent.ALL),
        question=Question(fields=("stats",), queues=True),
    )
    found = report._make_report(
        snapshot, ReportOptions.from_conf(conf, app="tests.celery_app:app")
    )
    for field in fields(Snapshot):
        value = getattr(snapshot, field.name)
        assert value, f"{field.name} has its default value here"
        assert getattr(found, field.name) == value, field.name
