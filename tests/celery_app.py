"""The Celery app of the tests' workers, and of the test process as their client."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery


class Unprintable:
    """An argument that a careless task might be given."""

    def __repr__(self) -> str:
        raise RuntimeError("nobody looks at me")


def make_app(config: dict[str, Any]) -> Celery:
    """Return an app of its own; nothing of it is shared with other apps."""
    app = Celery("tests", set_as_current=False, fixups=[])
    app.conf.update(config)

    @app.task(name="tests.nap")
    def nap(*args: Any, seconds: float = 0.0, **kwargs: Any) -> None:
        time.sleep(seconds)

    @app.task(name="tests.flaky", bind=True, max_retries=1, default_retry_delay=3600)
    def flaky(self: Any, *args: Any, **kwargs: Any) -> None:
        raise self.retry()

    return app


if os.environ.get("CELERY_STATS_TEST_DJANGO"):  # A project's worker, with the app installed.
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()

app = make_app(json.loads(os.environ.get("CELERY_STATS_TEST_CONFIG", "{}")))
