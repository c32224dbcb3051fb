"""What the endpoint and the command answer to recorded replies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.core.management import CommandError, call_command
from django.test import override_settings
from rest_framework.test import APIRequestFactory, force_authenticate

from celery_stats import report
from celery_stats.control.question import Options, Question
from celery_stats.control.snapshot import Snapshot
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

    def take_snapshot(question: Question, options: Options, **kwargs: Any) -> Snapshot:
        replies, asked = recorded["answers"], set(question.fields)
        missing = {
            worker: tuple(field for field in fields if field in asked)
            for worker, fields in recorded["missing"].items()
        }
        return Snapshot(
            answers={field: replies[field] if field in asked else None for field in replies},
            missing={worker: fields for worker, fields in missing.items() if fields},
            taken_at=datetime.fromisoformat(recorded["taken_at"]),
            elapsed=recorded["elapsed"],
            queues=recorded["queues"] if question.queues else None,
            question=question,
        )

    app = celery_app.make_app({"broker_url": "redis://broker.internal:6379/2"})
    with (
        override_settings(DRF_CELERY_STATS=CONF, TIME_ZONE="UTC"),
        patch.object(celery_app, "app", app),
        patch.object(report, "take_snapshot", take_snapshot),
    ):
        yield


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
