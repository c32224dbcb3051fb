"""One question to the workers, and who answered it."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_stats.control.question import Options, Question
from celery_stats.control.snapshot import Snapshot, take_snapshot
from celery_stats.shapes import FIELDS

#: Seconds. Long enough that a test that runs into it by accident sees it in ``elapsed``.
TIMEOUT = 4.0


def take(app: Celery, timeout: float = TIMEOUT, deadline: float = 20.0, **asked: Any) -> Snapshot:
    """Take a snapshot; ``asked`` are the attributes of the question."""
    return take_snapshot(Question(**asked), Options(app, timeout, deadline), deadline)


def workers_by_field(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return who stands under each field."""
    return {field: list(snapshot.answers[field] or ()) for field in FIELDS}


def everywhere(*workers: str) -> dict[str, list[str]]:
    """Return the same for workers that stand under every field."""
    return {field: list(workers) for field in FIELDS}
