"""What the endpoint and the command answer to recorded replies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.core.management import CommandError, call_command
from django.test import override_settings
from rest_framework.test import APIRequestFactory, force_authenticate

from celery_stats import report
from celery_stats.control.look_through import Extent, Place
from celery_stats.control.question import Extras, Options, Question
from celery_stats.control.results import Backend, Result
from celery_stats.control.snapshot import Snapshot
from celery_stats.control.traces import Traces
from celery_stats.views import CeleryStatsView
from tests import celery_app
from tests.accounts.models import User

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected"

CONF = {"CELERY_APP": "tests.celery_app:app"}

#: Name to the replies, and to the query with which they were asked for.
RECORDED: dict[str, dict[str, Any]] = json.loads((FOLDER / "replies.json").read_text())

#: Part of the file's name to the Accept header.
REPRESENTATIONS = {
    "compact": "application/json",
    "indented": "application/json; indent=2",
    "openmetrics": "application/openmetrics-text",
    "prometheus": "text/plain; version=0.0.4",
}
#: Part of the file's name to settings under which ``busy`` is answered as well.
SETTINGS: dict[str, dict[str, Any]] = {
    "hidden": {"HIDE_ARGUMENTS": True},
    "unmasked": {"REDACT": False},
}


def answers(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file that belongs to a recording."""
    recorded = RECORDED[name]
    with replayed(recorded):
        for part, accept in REPRESENTATIONS.items():
            yield f"{name}.{part}.http", response(recorded["query"], accept)
        yield f"{name}.command.txt", command(recorded["query"])
        for part, settings in SETTINGS.items() if name == "busy" else ():
            with override_settings(DRF_CELERY_STATS={**CONF, **settings}):
                accept = REPRESENTATIONS["indented"]
                yield f"{name}.{part}.http", response(recorded["query"], accept)


@contextmanager
def replayed(recorded: Mapping[str, Any]) -> Iterator[None]:
    """Answer every question with a recording; only the question to the workers is replaced."""

    def take_snapshot(question: Question, options: Options, remaining: float) -> Snapshot:
        whole, asked = decode(recorded), set(question.fields)
        owed = {
            worker: tuple(field for field in fields if field in asked)
            for worker, fields in whole.missing.items()
        }
        return replace(
            whole,
            answers={
                name: each if name in asked else None for name, each in whole.answers.items()
            },
            missing={worker: fields for worker, fields in owed.items() if fields},
            queues=whole.queues if question.queues else None,
            active_queues=whole.active_queues if question.queues else None,
            traces=whole.traces if question.look_up else None,
            question=question,
        )

    app = celery_app.make_app({"broker_url": "redis://broker.internal:6379/2"})
    with (
        override_settings(DRF_CELERY_STATS=CONF, TIME_ZONE="UTC"),
        patch.object(celery_app, "app", app),
        patch.object(report, "take_snapshot", take_snapshot),
    ):
        yield


def decode(recorded: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of a recording."""
    parts = {name: value for name, value in recorded.items() if name != "query"}
    parts["taken_at"] = datetime.fromisoformat(recorded["taken_at"])
    parts["extras"] = {worker: Extras(**sent) for worker, sent in recorded["extras"].items()}
    if traces := recorded["traces"]:
        # No task has ended while it was recorded, so that no result holds a time.
        parts["traces"] = Traces(
            results={task_id: Result(**found) for task_id, found in traces["results"].items()},
            backend=Backend(traces["backend"]),
            places={task_id: Place(**found) for task_id, found in traces["places"].items()},
            extent=Extent(traces["extent"]),
        )
    return Snapshot(**parts)


def response(query: Mapping[str, list[str]], accept: str) -> bytes:
    """Return the whole response, as it would be on the wire but for the order of the headers."""
    request = APIRequestFactory().get("/api/celery-stats/", query, headers={"Accept": accept})
    force_authenticate(request, User(username="support", is_support=True))
    answer = CeleryStatsView.as_view()(request).render()
    headers = "".join(f"{name}: {value}\n" for name, value in sorted(answer.items()))
    return f"{answer.status_code}\n{headers}\n".encode() + answer.content


def command(query: Mapping[str, list[str]]) -> bytes:
    """Return what the command writes to its outputs, and its exit status."""
    output, errors, status = StringIO(), StringIO(), 0
    options = {name: list(values) for name, values in query.items()}
    try:
        call_command("celery_stats", stdout=output, stderr=errors, no_color=True, **options)
    except CommandError as exc:
        status = exc.returncode
        errors.write(f"CommandError: {exc}\n")
    written = output.getvalue(), errors.getvalue(), f"{status}\n"
    titles = "standard output", "standard error", "exit status"
    return "".join(
        f"== {title}\n{text}" for title, text in zip(titles, written, strict=True)
    ).encode()
