"""The connections of a process to a Celery app's broker: use, keep, replace."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from celery import Celery

from .connection import ControlConnection
from .exceptions import BrokerUnavailable
from .messages import workers_in_late_reply
from .presence import Roster

logger = logging.getLogger(__name__)

#: Seconds after which an idle connection is closed. A firewall or a fail-over may cut it silently,
#: and finding that out takes a time-out.
MAX_IDLE = 10.0

#: Connections that are kept open between snapshots, for each Celery app and process.
MAX_KEPT = 1

#: Seconds for which an address that cost a time-out is tried last.
AVOIDED = 60.0

#: Reply queues of lost connections that are still to be removed.
MAX_ABANDONED = 10

T = TypeVar("T")


class Connections:
    """The connections of one Celery app in one process, and what is remembered of its broker."""

    def __init__(self) -> None:
        self.roster = Roster()
        # Deques need no lock, because append() and pop() are atomic. A fork could leave a lock
        # locked in the child.
        self._idle: deque[ControlConnection] = deque()
        self._abandoned_keys: deque[str] = deque(maxlen=MAX_ABANDONED)  # of reply queues
        self._hanging: dict[str, float] = {}  # address to the monotonic time until it is avoided
        self._timer: threading.Timer | None = None

    def run(
        self, app: Celery, deadline: float, ends: float, work: Callable[[ControlConnection], T]
    ) -> T:
        """Do ``work`` with a connection that nobody else uses meanwhile.

        A kept connection that fails is replaced by a new one, once, because the broker may have
        been restarted since. Then ``work`` is called a second time.

        Args:
            deadline: seconds that a snapshot may take in all.
            ends: the monotonic time of the deadline.

        Raises:
            BrokerUnavailable: the broker failed on a new connection.
        """
        kept = self._kept()
        if kept is not None:
            kept.ends = ends
            try:
                return self._use(kept, work)
            except BrokerUnavailable as exc:
                logger.debug("The kept connection to the broker failed: %s", type(exc.__cause__))
        return self._use(self._connect(app, deadline, ends), work)

    def _connect(self, app: Celery, deadline: float, ends: float) -> ControlConnection:
        # Threads of other questions change both meanwhile.
        now, key = time.monotonic(), ""
        hanging = {url for url, until in self._hanging.copy().items() if now < until}
        with suppress(IndexError):
            key = self._abandoned_keys.pop()
        connection = ControlConnection(app, deadline, ends=ends, reply_key=key, hanging=hanging)
        self._hanging.update(dict.fromkeys(connection.hanging - hanging, now + AVOIDED))
        return connection

    def _use(self, connection: ControlConnection, work: Callable[[ControlConnection], T]) -> T:
        try:
            result = work(connection)
        except BaseException:
            self._drop(connection)
            raise
        if connection.reusable and len(self._idle) < MAX_KEPT:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
            self._close_later(MAX_IDLE)
        else:
            self._drop(connection)
        return result

    def _drop(self, connection: ControlConnection) -> None:
        if connection.driver == "redis" and connection.reply_queue.exists:
            self._abandoned_keys.append(connection.reply_queue.key)
        connection.close()

    def _kept(self) -> ControlConnection | None:
        with suppress(IndexError):  # Another thread may take the last one.
            while True:
                connection = self._idle.pop()
                if connection.pid != os.getpid():
                    # It was opened before a fork, and the parent process still uses its socket.
                    continue
                idle = time.monotonic() - connection.used_at
                if idle < MAX_IDLE:
                    return connection
                self._close(connection)
        return None

    def _close_later(self, seconds: float) -> None:
        """Close the kept connections in a thread when they have been idle for too long."""
        if self._timer is not None and self._timer.is_alive():
            return
        self._timer = threading.Timer(seconds, self._close_idle)
        self._timer.daemon = True
        with suppress(RuntimeError):  # The system has no thread left.
            self._timer.start()

    def _close_idle(self) -> None:
        with suppress(IndexError):
            connection = self._idle.pop()
            remaining = connection.used_at + MAX_IDLE - time.monotonic()
            if remaining <= 0:
                self._close(connection)
            else:
                self._idle.append(connection)
                self._timer = None
                self._close_later(remaining)

    def _close(self, connection: ControlConnection) -> None:
        """Close an idle connection, after a look at what came late."""
        connection.read_late(lambda message: self._hear_late(message, connection))
        connection.close()

    def _hear_late(self, message: Any, connection: ControlConnection) -> None:
        for worker in workers_in_late_reply(message, connection):
            self.roster.hear(worker, connection.now(), is_worker=True)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


@cache
def connections_for(app: Celery) -> Connections:
    """Return the connections of the process to an app's broker. None is open yet."""
    return Connections()
