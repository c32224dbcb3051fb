"""The connections of a process to a Celery app's broker: use, keep, replace."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

from celery import Celery

from .connection import ControlConnection
from .exceptions import BrokerUnavailable
from .presence import Memory
from .presence.memory import workers_in_late_reply

logger = logging.getLogger(__name__)

#: Seconds after which an idle connection is not used any more. A firewall or a fail-over may have
#: cut it silently, and finding that out takes a time-out.
MAX_IDLE = 10.0

#: Connections that are kept open between snapshots, for each Celery app and process.
MAX_KEPT = 1

T = TypeVar("T")


class Broker:
    """The connections of one Celery app in one process, and what is remembered of its broker."""

    def __init__(self) -> None:
        self.memory = Memory()
        # A deque needs no lock, because append() and pop() are atomic. A fork could leave a lock
        # locked in the child.
        self._idle: deque[ControlConnection] = deque()

    def run(self, app: Celery, deadline: float, work: Callable[[ControlConnection], T]) -> T:
        """Do ``work`` with a connection that nobody else uses meanwhile.

        A kept connection that fails is replaced by a new one, once, because the broker may have
        been restarted since.

        Args:
            app: the Celery app.
            deadline: seconds that a snapshot may take in all.
            work: what to do; may be called a second time, with another connection.

        Raises:
            BrokerUnavailable: the broker failed on a new connection.
        """
        kept = self._kept(deadline)
        if kept is not None:
            try:
                return self._use(kept, work)
            except BrokerUnavailable as exc:
                logger.debug("The kept connection to the broker failed: %s", type(exc.__cause__))
        return self._use(ControlConnection(app, deadline), work)

    def _use(self, connection: ControlConnection, work: Callable[[ControlConnection], T]) -> T:
        try:
            result = work(connection)
        except BaseException:
            connection.abandon()
            raise
        self._keep(connection)
        return result

    def _kept(self, deadline: float) -> ControlConnection | None:
        with suppress(IndexError):  # Another thread may take the last one.
            while True:
                connection = self._idle.pop()
                if connection.pid != os.getpid():
                    # It was opened before a fork, and the parent process still uses its socket.
                    continue
                idle = time.monotonic() - connection.used_at
                if idle < MAX_IDLE and connection.deadline == deadline:
                    return connection
                self._read_late(connection)
                connection.abandon()
        return None

    def _read_late(self, connection: ControlConnection) -> None:
        connection.read_late(
            lambda message: self.memory.amqp.add(workers_in_late_reply(message, connection))
        )

    def _keep(self, connection: ControlConnection) -> None:
        connection.used_at = time.monotonic()
        if connection.reusable and len(self._idle) < MAX_KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop().close()


@cache
def broker_for(app: Celery) -> Broker:
    """Return the process's broker for a Celery app. Nothing is connected yet."""
    return Broker()
