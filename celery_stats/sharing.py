"""Single flight: callers who ask the same at the same time share one piece of work.

Each piece runs in a thread of its own. Whatever it hangs in (a name server, a TLS
handshake, a transport that knows no time-out), its callers are answered in time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

from .control.exceptions import (
    BrokerUnavailable,
    CeleryStatsError,
    SnapshotFailed,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds beyond its deadline that a caller waits: for the thread to wake up and for
#: callers who joined late to get a snapshot of their own.
GRACE = 0.5

#: Flights at the same time in a process. Whoever asks something else waits for a place, and
#: gives up at the deadline.
MAX_FLIGHTS = 8

#: Threads at the same time in a process, those of overdue flights included.
MAX_THREADS = 32


class _Flight(Generic[T]):
    """One run of the work; made by its first caller, who sets the deadline."""

    def __init__(self, work: Callable[[float], T], deadline: float) -> None:
        self.ends = time.monotonic() + deadline
        self.result: Future[T] = Future()
        self._work = work

    def run(self) -> None:
        # A caller that waited for the flight before this one has used up some of its
        # time; the grace is what is left to it at the least.
        remaining = max(self.ends - time.monotonic(), GRACE)
        error: CeleryStatsError = SnapshotFailed("interrupted")
        try:
            self.result.set_result(self._work(remaining))
        except CeleryStatsError as exc:
            error = exc
        finally:
            # However the work ends, SystemExit and KeyboardInterrupt included.
            if not self.result.done():
                self.result.set_exception(error)

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.ends + GRACE


class Sharing(Generic[T]):
    """At most one flight for a key at any time; whoever comes meanwhile shares the next."""

    def __init__(self) -> None:
        self._start_afresh()
        # A fork copies the lock and the flights, but not the threads that run them.
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Hashable, _Flight[T]] = {}
        self._waiting: dict[Hashable, _Flight[T]] = {}  # in the order of arrival
        self._threads = 0

    def get(self, key: Hashable, work: Callable[[float], T], *, deadline: float) -> T:
        """Return the result of a run that began after this call.

        Args:
            key: calls with equal keys want the same.
            work: takes the seconds that it may use.
            deadline: seconds from now after which the caller gives up.

        Raises:
            CeleryStatsError: what the run raised, BrokerUnavailable if it did not end
                in time.
        """
        with self._lock:
            flight = self._waiting.get(key)
            if flight is None:
                flight = self._waiting[key] = _Flight(work, deadline)
                self._start_those_waiting()
        try:
            return flight.result.result(deadline + GRACE)
        except FutureTimeout:
            with self._lock:
                if self._waiting.get(key) is flight and flight.overdue:
                    del self._waiting[key]
            message = f"no snapshot within {deadline + GRACE:g} s"
            logger.warning("Gave up waiting: %s", message)
            raise BrokerUnavailable(message) from None
        except CeleryStatsError as exc:
            # One exception for each caller: raising adds to its traceback.
            error = type(exc)(*exc.args)
            error.urls = exc.urls
            raise error from exc

    def _start_those_waiting(self) -> None:
        """Start the flights that there is room for; the lock is held."""
        for key, flight in list(self._waiting.items()):
            flying = self._flying.get(key)
            if flying is not None and not flying.overdue:
                continue
            in_time = sum(not other.overdue for other in self._flying.values())
            if in_time >= MAX_FLIGHTS or self._threads >= MAX_THREADS:
                return
            del self._waiting[key]
            self._start(key, flight)

    def _start(self, key: Hashable, flight: _Flight[T]) -> None:
        thread = threading.Thread(
            target=self._fly, args=(key, flight), name="celery-stats", daemon=True
        )
        self._flying[key] = flight
        self._threads += 1
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left for us
            logger.error("No snapshot: %s", exc)
            self._threads -= 1
            del self._flying[key]
            flight.result.set_exception(SnapshotFailed("no thread"))

    def _fly(self, key: Hashable, flight: _Flight[T]) -> None:
        try:
            flight.run()
        finally:
            with self._lock:
                self._threads -= 1
                # Not so where it was overdue: another flight has taken its place by now.
                if self._flying.get(key) is flight:
                    del self._flying[key]
                self._start_those_waiting()
