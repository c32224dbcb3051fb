"""What a narrowed question leaves out: nothing that is shown denies it.

The fleet is the same in each test. Each query parameter asks for a part of it, and what page,
terminal and metrics say of that part must be true of the whole fleet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIRequestFactory, force_authenticate

from celery_stats import report
from celery_stats.control.look_through import Extent, Place
from celery_stats.control.question import FIELDS, Options, Question
from celery_stats.control.results import Backend
from celery_stats.control.snapshot import Snapshot
from celery_stats.control.traces import Traces
from celery_stats.query import PARAMETERS
from celery_stats.views import CeleryStatsView
from tests import celery_app
from tests.accounts.models import User
from tests.answers import ANSWERS, NOW, STATS, TASK

#: Values of each parameter that ask for a part in which the rest of the fleet is not seen.
PARTS: Mapping[str, Sequence[Sequence[str]]] = {
    "task_id": [["next"]],
    "worker": [["idle@h"], ["frozen@h"]],
    "field": [["stats"], ["active"], ["revoked", "query_task"]],
}

BUSY: dict[str, Any] = {
    "active": [TASK],
    "scheduled": [{"eta": "2026-03-01T12:03:00Z", "request": {**TASK, "id": "later"}}],
    "reserved": [{**TASK, "id": "next"}],
    "revoked": ["revoked"],
    "query_task": {TASK["id"]: ["active", TASK]},
    "stats": STATS,
}
IDLE = {field: replies["a@h"] for field, replies in ANSWERS.items()} | {"active": []}
REPLIES = {"busy@h": BUSY, "idle@h": IDLE}
ACTIVE_QUEUES = {"busy@h": [{"name": "celery"}], "idle@h": [{"name": "mail"}]}
FLEET = (*REPLIES, "frozen@h")


def take_snapshot(question: Question, options: Options, remaining: float) -> Snapshot:
    """Ask the fleet, as the workers would answer the question."""
    asked = question.workers or FLEET
    found = {
        field: {worker: REPLIES[worker][field] for worker in REPLIES if worker in asked}
        for field in question.fields
    }
    return Snapshot(
        answers={field: found.get(field) or None for field in FIELDS},
        missing={worker: question.fields for worker in asked if worker not in REPLIES},
        taken_at=NOW,
        elapsed=0.01,
        queues={"celery": 7, "mail": 0} if question.queues else None,
        active_queues={
            worker: ACTIVE_QUEUES[worker] for worker in ACTIVE_QUEUES if worker in asked
        }
        if question.queues
        else None,
        # The queue was looked through just before the worker received it.
        traces=Traces({}, Backend.NONE, {TASK["id"]: Place("celery", 3)}, Extent.ALL),
        question=question,
    )


@pytest.fixture(autouse=True)
def fleet(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.celery_app:app"}
    app = celery_app.make_app({"broker_url": "redis://broker.internal:6379/2"})
    monkeypatch.setattr(celery_app, "app", app)
    monkeypatch.setattr(report, "take_snapshot", take_snapshot)


def get(query: Mapping[str, Sequence[str]], representation: str) -> str:
    request = APIRequestFactory().get("/", {**query, "format": representation})
    force_authenticate(request, User(username="support", is_support=True))
    response = CeleryStatsView.as_view()(request).render()
    assert response.status_code == 200
    return str(response.content.decode())


def run(query: Mapping[str, Sequence[str]]) -> str:
    output = StringIO()
    with suppress(CommandError):
        call_command("celery_stats", stdout=output, stderr=output, no_color=True, **query)
    return output.getvalue()


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


#: What stands where nothing is known.
UNKNOWN = ("", "\N{EN DASH}")
#: Words that deny something of the whole fleet, or say it of all.
OF_ALL = re.compile(
    r"\b(?:no|every|all|none of the) (?:worker|task)s?\b|\bnobody\b", re.IGNORECASE
)


def said_of_all(text: str) -> list[str]:
    """Return the sentences about all workers or tasks, but for those that say what was asked."""
    sentences = [" ".join(each.split()) for each in re.split(r"<[^>]*>|(?<=\.)\s|\n\n?", text)]
    of_all = [each for each in sentences if OF_ALL.search(each) and "asked" not in each]
    return [each for each in of_all if each != "Messages that no worker has received yet."]


def on_page(html: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each number in the table of workers."""
    for name, row in re.findall(
        r'<tbody class="worker"\s+data-key="([^"]*)"(.*?)</tbody>', html, re.S
    ):
        for label, cell in re.findall(r'<td data-label="(\w+)"[^>]*>(.*?)</td>', row, re.S):
            for at, number in enumerate(text_of(cell).split(" of ")):
                yield (name, label, str(at)), number


def in_terminal(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each number in the table of workers."""
    table = re.search(r"^Worker  .*?(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    titles, *rows = [re.split(r" {2,}", line) for line in table[0].splitlines()] if table else [[]]
    for row in rows:
        for label, cell in zip(titles, row, strict=True):
            for at, number in enumerate(cell.split(" of ")):
                yield (row[0], label, str(at)), number


def in_metrics(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each sample. Those of the snapshot are about the question and not about the fleet."""
    for line in text.splitlines():
        if not line.startswith(("#", "celery_snapshot_")):
            series, _, number = line.rpartition(" ")
            yield (series,), number


def slots(text: str) -> set[str]:
    """Return what is said of the slots of workers in look-ups."""
    return set(re.findall(r"slots busy: [^.]*", text))


def totals(html: str) -> list[str]:
    return re.findall(r'<data id="total-\w+" value="(\d*)"', html)


@pytest.mark.parametrize(("name", "values"), [(n, part) for n in PARAMETERS for part in PARTS[n]])
def test_part_of_the_fleet__nothing_false_of_the_whole(name: str, values: Sequence[str]) -> None:
    whole = {"task_id": [TASK["id"], "next"]}
    part = {name: [*values, *whole.get(name, ())]}
    query = {**whole, **part}
    page, terminal = get(query, "html"), run(query)
    assert said_of_all(page) == []
    assert said_of_all(terminal) == []
    assert slots(page) <= slots(get(whole, "html"))
    assert slots(terminal) <= slots(run(whole))
    if totals(page) not in ([], totals(get(whole, "html"))):
        assert "Totals of what was asked for" in text_of(page)
    for read, told, of_all in (
        (on_page, page, get(whole, "html")),
        (in_terminal, terminal, run(whole)),
        (in_metrics, get(part, "openmetrics"), get({}, "openmetrics")),
    ):
        known = dict(read(of_all))
        assert known
        found = {key: number for key, number in read(told) if number not in UNKNOWN}
        assert found == {key: known.get(key) for key in found}


def test_whole_fleet__told_without_reserve() -> None:
    """The same words are found where they are true."""
    assert len(slots(get({"task_id": ["next"]}, "html"))) == 1
    page = get({"task_id": ["unknown"]}, "html")
    assert said_of_all(page) == ["No worker that answered knows it."]
    assert "Totals Active 1" in text_of(page)
