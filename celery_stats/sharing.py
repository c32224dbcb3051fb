"""Callers that arrive together share one piece of work, and none waits for ever.

Each piece runs in a thread of its own. Whatever it hangs in (a name server, a TLS
handshake, a transport that knows no time-out), its callers are let go in time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .control.exceptions import BrokerUnavailable, CeleryStatsError, SnapshotFailed

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds beyond its deadline that a caller waits: for the thread to wake up and for
#: callers who joined late to get a snapshot of their own.
GRACE = 0.5


class _Flight(Generic[T]):
    """One run of the work; made by its first caller, who sets the deadline."""

    def __init__(self, deadline: float) -> None:
        self.ends = time.monotonic() + deadline
        self.landed = threading.Event()
        self.result: T | None = None
        #: What callers get of a run that ends without a result, however it ends.
        self.error: CeleryStatsError = SnapshotFailed("interrupted")

    def run(self, work: Callable[[float], T]) -> None:
        # A caller that waited for the flight before this one has used up some of its
        # time; the grace is what is left to it at the least.
        remaining = max(self.ends - time.monotonic(), GRACE)
        try:
            self.result = work(remaining)
        except CeleryStatsError as exc:
            self.error = exc
        finally:
            self.landed.set()

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.ends + GRACE


class Sharing(Generic[T]):
    """At most one run in flight for a key; whoever comes meanwhile shares the next."""

    def __init__(self) -> None:
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._flying: dict[Hashable, _Flight[T]] = {}
        self._waiting: dict[Hashable, _Flight[T]] = {}

    def get(self, key: Hashable, work: Callable[[float], T], *, deadline: float) -> T:
        """Return the result of a run that began after this call.

        Args:
            key: calls with equal keys want the same.
            work: takes the seconds that it may use; never returns None.
            deadline: seconds from now after which the caller gives up.

        Raises:
            CeleryStatsError: what the run raised, or BrokerUnavailable if it did not end
                in time.
        """
        if self._pid != os.getpid():
            # A fork copies the lock and the flights, but not the threads that fly them.
            self._start_afresh()
        with self._lock:
            flying = self._flying.get(key)
            if flying is None or flying.overdue:
                flight: _Flight[T] = _Flight(deadline)
                self._take_off(key, flight, work)
            else:
                flight = self._waiting.setdefault(key, _Flight(deadline))
        if not flight.landed.wait(deadline + GRACE):
            message = f"no snapshot within {deadline + GRACE:g} s"
            logger.warning("Gave up waiting: %s", message)
            raise BrokerUnavailable(message)
        if flight.result is None:
            # One exception for each caller: raising adds to its traceback.
            raise type(flight.error)(*flight.error.args) from flight.error
        return flight.result

    def _take_off(self, key: Hashable, flight: _Flight[T], work: Callable[[float], T]) -> None:
        """Start the flight's thread; the lock is held."""
        thread = threading.Thread(
            target=self._fly, args=(key, flight, work), name="celery-stats", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left for us
            logger.error("No snapshot: %s", exc)
            self._flying.pop(key, None)
            flight.landed.set()
        else:
            self._flying[key] = flight

    def _fly(self, key: Hashable, flight: _Flight[T], work: Callable[[float], T]) -> None:
        try:
            flight.run(work)
        finally:
            with self._lock:
                # Not so where it was overdue: another flight has taken its place by now.
                if self._flying.get(key) is flight:
                    following = self._waiting.pop(key, None)
                    if following is None:
                        del self._flying[key]
                    else:
                        self._take_off(key, following, work)
