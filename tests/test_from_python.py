"""``celery_stats.get_report()``, as code of a project calls it."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta, timezone
from inspect import getdoc, signature
from typing import Any

import pytest

import celery_stats
from celery_stats import (
    BrokerUnavailable,
    CeleryAppNotFound,
    CeleryStatsError,
    RemoteControlUnsupported,
    WrongQuestion,
    WrongSetting,
    get_report,
)
from celery_stats import report as reports
from celery_stats.control.question import Question
from celery_stats.query import PARAMETERS
from celery_stats.shapes import FIELDS
from tests.brokers import Broker, MakeBroker, Use
from tests.network import silent_port
from tests.processes import free_port, run_python


def test_import__nothing_else_is_imported() -> None:
    code = """
import sys
import celery_stats
loaded = {name.partition(".")[0] for name in sys.modules if name != "celery_stats"}
print(sorted(loaded & {"celery_stats", "django", "celery", "rest_framework"}))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names__all_there_and_no_other() -> None:
    assert {
        name: bool(getattr(celery_stats, name)) for name in celery_stats.__all__
    } == dict.fromkeys(celery_stats.__all__, True)
    with pytest.raises(AttributeError, match="has no attribute 'get_reports'"):
        celery_stats.get_reports  # noqa: B018
    errors = [
        getattr(celery_stats, name)
        for name in celery_stats.__all__
        if name not in ("Report", "get_report")
    ]
    assert all(issubclass(error, CeleryStatsError) for error in errors)


def test_get_report__everybody_and_everything(fleet: Broker, use: Use) -> None:
    use(fleet)
    before = datetime.now(timezone.utc)
    report = get_report()
    assert list(report.answers) == list(FIELDS)
    assert all(
        list(replies or ()) == ["one@fleet", "two@fleet"] for replies in report.answers.values()
    )
    assert report.missing == {}
    assert before - timedelta(seconds=1) <= report.taken_at <= datetime.now(timezone.utc)
    assert 0 < report.elapsed < 10
    assert json.loads(report.json()) == report.answers


def test_get_report__narrowed(fleet: Broker) -> None:
    report = get_report(
        fields=["stats", "query_task"],
        workers=["two@fleet", "nobody@t"],
        task_ids=["a"],
        app=fleet.app,
        timeout=0.5,
    )
    answered = {
        field: list(replies) for field, replies in report.answers.items() if replies is not None
    }
    assert answered == {"query_task": ["two@fleet"], "stats": ["two@fleet"]}
    assert report.missing == {"nobody@t": ("query_task", "stats")}


def test_get_report__an_argument_for_each_parameter() -> None:
    arguments = {parameter.attribute for parameter in PARAMETERS.values()}
    assert signature(get_report).parameters.keys() == {*arguments, "app", "timeout"}
    described = re.findall(r"^ +(\w+): ", str(getdoc(get_report)), re.MULTILINE)
    assert arguments <= {*described}


@pytest.mark.parametrize("name", PARAMETERS)
def test_get_report__argument__asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "share_report", lambda question, options: question)
    given: Any = {PARAMETERS[name].attribute: tuple(PARAMETERS[name].choices[-1:]) or ("x",)}
    assert get_report(**given) == Question(**given)


def test_get_report__masked_as_the_settings_say(make_broker: MakeBroker, settings: Any) -> None:
    broker = make_broker("redis", "one@t")
    task = broker.send("Tallinn", countdown=600, password="hunter2")

    def arguments() -> Any:
        (held,) = (get_report(fields=["scheduled"], app=broker.app).answers["scheduled"] or {})[
            "one@t"
        ]
        assert held["request"]["id"] == task
        return held["request"]["args"], held["request"]["kwargs"]

    deadline = time.monotonic() + 20
    while not (get_report(fields=["scheduled"], app=broker.app).answers["scheduled"] or {}).get(
        "one@t"
    ):
        assert time.monotonic() < deadline
    assert arguments() == (["Tallinn"], {"password": "********************"})
    settings.DRF_CELERY_STATS = {"HIDE_ARGUMENTS": True}
    assert arguments() == ("********************", "********************")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fields": ["colour"]}, "field: Unknown field; known are: "),
        ({"fields": "stats"}, "field: Several texts are expected, as in a list."),
        ({"workers": "one@h"}, "worker: Several texts are expected, as in a list."),
        ({"workers": [None]}, "worker: Several texts are expected, as in a list."),
        ({"task_ids": ["a\nb"]}, "task_id: A value may not hold control characters."),
        ({"timeout": 0}, "timeout: Should be a positive number of seconds."),
        ({"timeout": "soon"}, "timeout: Should be a positive number of seconds."),
    ],
)
def test_get_report__wrong_argument__says_what_is_accepted(arguments: Any, text: str) -> None:
    with pytest.raises(WrongQuestion) as raised:
        get_report(**arguments)
    assert str(raised.value).startswith(text)
    assert isinstance(raised.value, ValueError)


def test_get_report__wrong_setting(settings: Any) -> None:
    settings.DRF_CELERY_STATS = {"TIMEOUT": "1"}
    with pytest.raises(WrongSetting, match="TIMEOUT"):
        get_report()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://:hunter2@127.0.0.1:{port}/0", BrokerUnavailable),
        ("sqs://hunter2:hunter2@", RemoteControlUnsupported),
    ],
)
def test_get_report__no_snapshot__masked_and_alone(
    make_broker: MakeBroker, url: str, error: Any
) -> None:
    app = make_broker(broker_url=url.format(port=free_port())).app
    with pytest.raises(error) as raised:
        get_report(app=app)
    assert "hunter2" not in str(raised.value)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_get_report__no_such_app() -> None:
    with pytest.raises(CeleryAppNotFound, match="nowhere"):
        get_report(app="tests.nowhere:app")


def test_get_report__broker_that_is_silent__within_the_deadline(
    make_broker: MakeBroker, settings: Any
) -> None:
    settings.DRF_CELERY_STATS = {"DEADLINE": 1.0}
    with silent_port() as port:
        app = make_broker(broker_url=f"redis://127.0.0.1:{port}/0").app
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            get_report(app=app)
    assert time.monotonic() - started < 2
