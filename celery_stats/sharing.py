"""Single flight: callers who ask the same question at the same time share one snapshot.

A caller gets the result of a run that began after its call, so what it is told is never older
than its request. Each run has a thread of its own: whatever a run hangs in (a name server, a TLS
handshake, a transport without time-outs), its callers are answered in time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from copy import copy
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .control.exceptions import BrokerUnavailable, CeleryStatsError, SnapshotFailed

T = TypeVar("T")

#: Seconds that a caller waits after its deadline, so that the thread can deliver its result. A run
#: also gets at least this long if its callers spent their deadline waiting for the run before it.
GRACE = 0.5

#: Runs at the same time in a process. A caller with one more question waits until a run ends,
#: and gets an error at its deadline.
MAX_RUNS = 8

#: Threads at the same time in a process, those of overdue runs included.
MAX_THREADS = 32


@dataclass
class _Run(Generic[T]):
    """One run of the work.

    Attributes:
        work: takes the seconds that it may use.
        ends: the monotonic time of its latest caller's deadline.
        result: what its callers wait for.
    """

    work: Callable[[float], T]
    ends: float = 0.0
    result: Future[T] = field(default_factory=Future)

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.ends + GRACE


class SingleFlight(Generic[T]):
    """At most one run for a key at any time; callers who come meanwhile share the next one."""

    def __init__(self) -> None:
        self._reset()
        # A fork copies the lock and the runs, but not the threads that execute them.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, _Run[T]] = {}
        self._waiting: dict[Hashable, _Run[T]] = {}  # in the order of arrival
        self._threads = 0

    def get(self, key: Hashable, work: Callable[[float], T], *, deadline: float) -> T:
        """Return the result of a run that began after this call.

        Args:
            key: calls with equal keys want the same.
            work: takes the seconds that it may use.
            deadline: seconds from now after which the caller gives up.

        Raises:
            CeleryStatsError: what the run raised; BrokerUnavailable if it did not end in time.
        """
        with self._lock:
            run = self._waiting.setdefault(key, _Run(work))
            run.ends = max(run.ends, time.monotonic() + deadline)
            # Each caller does this, because the run before may have become overdue meanwhile.
            self._start_waiting_runs()
        error: CeleryStatsError
        try:
            return run.result.result(deadline + GRACE)
        except FutureTimeout:
            with self._lock:
                if self._waiting.get(key) is run and run.overdue:
                    del self._waiting[key]
                # This caller's run may have become overdue, and no other caller may come.
                self._start_waiting_runs()
            error = BrokerUnavailable(f"no snapshot within {deadline + GRACE:g} s")
        except CeleryStatsError as exc:
            # Each caller gets an exception of its own, because raising adds to its traceback.
            error = copy(exc)
        # Not in the blocks above, which would chain the exception of the run, with its frames.
        raise error

    def _start_waiting_runs(self) -> None:
        """Start the waiting runs that there is room for. The lock is held by the caller."""
        for key, run in list(self._waiting.items()):
            in_time = {name for name, other in self._running.items() if not other.overdue}
            if key in in_time:
                continue
            if len(in_time) >= MAX_RUNS or self._threads >= MAX_THREADS:
                return
            self._running[key] = self._waiting.pop(key)
            self._threads += 1
            thread = threading.Thread(
                target=self._execute, args=(key, run), name="celery-stats", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:  # The system has no thread left.
                self._threads -= 1
                del self._running[key]
                run.result.set_exception(SnapshotFailed(f"no thread: {exc}"))

    def _execute(self, key: Hashable, run: _Run[T]) -> None:
        error: CeleryStatsError = SnapshotFailed("interrupted")
        try:
            run.result.set_result(run.work(max(run.ends - time.monotonic(), GRACE)))
        except CeleryStatsError as exc:
            error = exc
        finally:
            # Callers get an error even if the work ends with SystemExit or KeyboardInterrupt.
            if not run.result.done():
                run.result.set_exception(error)
            with self._lock:
                self._threads -= 1
                # An overdue run has been replaced by the next one of its key.
                if self._running.get(key) is run:
                    del self._running[key]
                self._start_waiting_runs()
