"""The connections of a process: lease, keep, replace; and which Celery app is meant."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar

from celery import Celery
from celery.app import app_or_default
from kombu.utils.imports import symbol_by_name

from .connection import ControlConnection
from .exceptions import BrokerUnavailable, CeleryAppNotFound
from .presence import Memory, hear_late

logger = logging.getLogger(__name__)

#: Seconds after which an idle connection is not trusted any more: a firewall or a
#: fail-over may have cut it silently, and finding that out costs a time-out.
MAX_IDLE = 10.0

#: Connections kept open between snapshots, for each Celery app and process.
MAX_KEPT = 1

T = TypeVar("T")


class Broker:
    """The connections of one Celery app in one process, and what is remembered of the broker."""

    def __init__(self) -> None:
        self.memory = Memory()
        # Appending to and popping from a deque is atomic: no lock that a fork could
        # leave locked in the child.
        self._idle: deque[ControlConnection] = deque()

    def run(self, app: Celery, deadline: float, work: Callable[[ControlConnection], T]) -> T:
        """Do ``work`` on a connection of its own.

        A kept connection that fails is replaced by a new one, once: the broker may have been
        restarted since.

        Args:
            app: the Celery app.
            deadline: seconds that a snapshot may take in all.
            work: what to do; may be called twice.

        Raises:
            BrokerUnavailable: the broker fails on a new connection.
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
        with suppress(IndexError):  # others may take the last one
            while True:
                connection = self._idle.pop()
                if connection.pid != os.getpid():
                    # Opened before a fork: the parent still uses this socket.
                    continue
                idle = time.monotonic() - connection.used_at
                if idle < MAX_IDLE and connection.deadline == deadline:
                    return connection
                connection.read_late(partial(hear_late, connection=connection, memory=self.memory))
                connection.abandon()
        return None

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


def find_app(app: Celery | str | None) -> Celery:
    """Return the Celery app that is meant.

    Args:
        app: the app itself, its dotted path (``"project.celery:app"``), or None for the
            current app.

    Raises:
        CeleryAppNotFound: nothing of the kind is at that path.
    """
    if app is None:
        return app_or_default()
    if isinstance(app, str):
        try:
            app = symbol_by_name(app)
        except (ImportError, AttributeError, TypeError, ValueError) as exc:
            raise CeleryAppNotFound(f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(app, Celery):
        raise CeleryAppNotFound(f"a {type(app).__name__} is not a Celery app")
    return app


@cache
def broker_for(app: Celery) -> Broker:
    """Return this process's broker for a Celery app; nothing is connected yet."""
    return Broker()
