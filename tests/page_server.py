"""Serves the page on loopback from a recorded report, for what real workers do not do on demand.

    python -m tests.page_server PORT FILE [SETTINGS [PREFIX]]

FILE holds ``{"answers": ..., "missing": ..., "status": 503}`` and is read at every request;
SETTINGS is JSON with what differs from the tests' own; the project is mounted under PREFIX.
Only the question to the workers is replaced.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Log errors only."""


def mounted(application: Callable[..., Any], prefix: str) -> Callable[..., Any]:
    """Serve the application under a path, as a web server does."""

    def inner(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"].startswith(prefix):
            environ["SCRIPT_NAME"] = prefix
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(prefix)
        return application(environ, start_response)

    return inner


def main(port: str, file: str, overrides: str = "{}", prefix: str = "") -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    for name, value in json.loads(overrides).items():
        setattr(settings, name, value)
    django.setup()

    from celery_stats import views
    from celery_stats.control.exceptions import BrokerUnavailable
    from celery_stats.control.question import Question
    from celery_stats.report import Report
    from celery_stats.shapes import FIELDS

    def recorded(question: Question, options: Any) -> Report:
        state = json.loads(Path(file).read_text())
        if state.get("status") == 503:
            raise BrokerUnavailable
        answers = {name: state["answers"].get(name) for name in FIELDS}
        now = datetime.now(timezone.utc)
        missing = {name: tuple(fields) for name, fields in state.get("missing", {}).items()}
        names = ("queues", "active_queues", "silent_subscribers", "unreadable")
        besides = {name: state[name] for name in names if name in state}
        return Report(answers, missing, now, 0.0123, **besides, question=question)

    views.share_report = recorded
    application = StaticFilesHandler(mounted(get_wsgi_application(), prefix))
    with make_server("127.0.0.1", int(port), application, handler_class=QuietHandler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
