"""Imported by a worker whose commands shall fail; see ``imports`` in Celery's settings."""

from __future__ import annotations

from typing import Any, NoReturn

from celery.worker.control import inspect_command


@inspect_command()
def stats(state: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("no statistics today")


@inspect_command()
def reserved(state: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("no list today")


@inspect_command()
def query_task(state: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("no task today")
