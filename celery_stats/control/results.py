"""What the result backend of the app says of tasks: the state, and when. Never the result.

Celery's backends have no time-outs that fit a request, so they are asked in a thread.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from celery import Celery
from celery.app import backends
from celery.backends.base import DisabledBackend
from celery.states import PENDING

from .limits import bound_reads

logger = logging.getLogger(__name__)

#: Threads at the same time in a process, those that hang in a backend included.
MAX_RESULT_THREADS = 4

#: A state as Celery and its users write them. Anybody who may write to the backend can put any
#: text there, so another one is not passed on.
_STATE = re.compile(r"[A-Z][A-Z0-9_]{0,39}", re.ASCII)

#: A fork copies it, and marks the threads in it as ended.
_threads: set[threading.Thread] = set()


class Backend(Enum):
    """Whether the result backend answered."""

    ANSWERED = "answered"
    NONE = "none"  #: the app has none
    PRIVATE = "private"  #: only the process that sent a task gets its result (``rpc://``)
    LATE = "late"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """What the result backend holds of a task.

    Attributes:
        state: such as ``"SUCCESS"``.
        at: when the task ended, in a time zone; None where it has not, or that is not known.
    """

    state: str
    at: datetime | None


@dataclass
class ResultRequest:
    """The question to the result backend, which a thread asks.

    Attributes:
        results: task id to what the backend holds, for tasks that it knows.
        backend: whether it answered.
    """

    app: Celery
    task_ids: Collection[str]
    results: dict[str, Result] = field(default_factory=dict)
    backend: Backend = Backend.LATE
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask. Nothing is asked while too many earlier questions hang."""
        # A copy, because the thread of another question may add one meanwhile.
        _threads.difference_update([thread for thread in _threads.copy() if not thread.is_alive()])
        if len(_threads) >= MAX_RESULT_THREADS:
            return
        thread = threading.Thread(target=self._run, name="celery-stats-results", daemon=True)
        with suppress(RuntimeError):  # The system has no thread left.
            thread.start()
            _threads.add(thread)
            self._thread = thread

    def wait(self, seconds: float) -> None:
        """Wait until the backend has answered, at most for some seconds."""
        if self._thread is not None:
            self._thread.join(max(seconds, 0.0))

    def _run(self) -> None:
        backend = None
        try:
            # A backend of its own, because it cannot be shared between threads.
            cls, url = backends.by_url(self.app.conf.result_backend, self.app.loader)
            backend = cls(app=self.app, url=url)
            if (pool := _pool(backend)) is not None:
                bound_reads(pool)
            self.backend = self._ask(backend)
        # The boundary of this thread. Backends are pluggable and may raise anything. The text of
        # the exception is not logged, because it may hold a URL with a password.
        except Exception as exc:  # noqa: BLE001
            logger.warning("The result backend failed: %s", type(exc.__cause__ or exc).__name__)
            self.backend = Backend.FAILED
        finally:
            _close(self.app, backend)

    def _ask(self, backend: Any) -> Backend:
        if isinstance(backend, DisabledBackend):
            return Backend.NONE
        # Asking would take messages from a queue that belongs to this process.
        if type(backend).__module__ == "celery.backends.rpc":
            return Backend.PRIVATE
        for task_id in self.task_ids:
            meta = backend.get_task_meta(task_id, cache=False)
            state = meta.get("status")
            if isinstance(state, str) and state != PENDING and _STATE.fullmatch(state):
                self.results[task_id] = Result(state, _moment(self.app, meta.get("date_done")))
        return Backend.ANSWERED


def _moment(app: Celery, value: Any) -> datetime | None:
    """Return a time of a backend: ISO text, or a time that databases return without a zone."""
    with suppress(ValueError):
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=app.timezone)


def _pool(backend: Any) -> Any:
    """Return the connections of a backend in Redis, or None."""
    return getattr(getattr(backend, "client", None), "connection_pool", None)


def _close(app: Celery, backend: Any) -> None:
    """Close what this thread has opened: connections of the backend and of Django."""
    # The boundary of this thread, like that of _run().
    try:
        # redis-py would close them when the garbage collector comes.
        if (pool := _pool(backend)) is not None:
            pool.disconnect()
        # Celery's own way to close Django's connections after a task. Imported here, because a web
        # process needs nothing else of the worker.
        from celery.fixups.django import DjangoWorkerFixup

        fixup = DjangoWorkerFixup(app)
        fixup.close_database()
        fixup.close_cache()
    except Exception as exc:  # noqa: BLE001
        logger.debug("The result backend was not closed: %s", type(exc).__name__)
