"""The Celery app of the tests' workers, and of the test process as their client."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery


class Unprintable:
    """An argument that a careless task might be given."""

    def __repr__(self) -> str:
        raise RuntimeError("nobody looks at me")


class Unreadable(Mapping[str, Any]):
    """An argument that fails while it is read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("there is no value")

    def __iter__(self) -> Iterator[str]:
        yield "first"
        raise RuntimeError("there is no second")

    def __len__(self) -> int:
        raise RuntimeError("nobody counts me")

    def __repr__(self) -> str:
        return "<Unreadable>"


#: Arguments that Celery's JSON cannot encode, or that fail when they are looked at.
ODD: dict[str, Any] = {
    "set": {1, 2},
    "nan": float("nan"),
    "bytes": b"\xff",
    "object": Unprintable(),
    "mapping": Unreadable(),
}
#: The same in an answer.
ODD_AS_JSON = {
    "set": [1, 2],
    "nan": "NaN",
    "bytes": "\\xff",
    "object": "<unprintable Unprintable>",
    "mapping": "<Unreadable>",
}


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

    @app.task(name="tests.command")
    def command(*args: str) -> None:
        from django.core.management import call_command

        call_command("celery_stats", *args)

    return app


if os.environ.get("CELERY_STATS_TEST_DJANGO"):  # A project's worker, with the app installed.
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()

app = make_app(json.loads(os.environ.get("CELERY_STATS_TEST_CONFIG", "{}")))
