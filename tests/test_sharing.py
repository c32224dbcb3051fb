"""Callers that come together share one run, none waits for ever, and nobody gets old news."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from kombu.utils.uuid import uuid
from rest_framework.response import Response
from rest_framework.test import APIClient

from celery_stats import sharing
from celery_stats.control.exceptions import BrokerUnavailable, CeleryStatsError, SnapshotFailed
from celery_stats.shapes import FIELDS
from celery_stats.sharing import SingleFlight
from tests.accounts.models import User
from tests.brokers import MakeBroker, RedisServer, Use
from tests.mailbox import Mailbox
from tests.processes import wait_until

URL = "/api/celery-stats/"


class Work:
    """Work whose runs begin and end when the test says so; each returns its number."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.remaining: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._may_end = threading.Semaphore(0)
        self.raises: BaseException | None = None

    def __call__(self, remaining: float) -> int:
        with self._lock:
            self.begun.append(time.monotonic())
            self.remaining.append(remaining)
            number = len(self.begun)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self._may_end.acquire(timeout=20)
        finally:
            with self._lock:
                self.at_once -= 1
        if self.raises is not None:
            raise self.raises
        return number

    def end(self, runs: int = 1) -> None:
        self._may_end.release(runs)

    def wait_for_run(self, number: int) -> None:
        wait_until(lambda: len(self.begun) >= number, what=f"run {number}")


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.end(100)
    # An exception of a thread that outlives the test would be another test's.
    running = "celery-stats"
    wait_until(lambda: running not in {thread.name for thread in threading.enumerate()})


@pytest.fixture
def shared() -> SingleFlight[int]:
    return SingleFlight()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


def waiting(shared: SingleFlight[int]) -> int:
    """How many callers the run after this one has, as far as the lock tells."""
    return len(shared._waiting)


class TestGet:
    def test_alone__runs_at_once_and_not_again(
        self, shared: SingleFlight[int], work: Work
    ) -> None:
        work.end(2)
        assert shared.get("key", work, deadline=5) == 1
        assert shared.get("key", work, deadline=5) == 2
        assert all(4 < seconds <= 5 for seconds in work.remaining)

    def test_while_one_is_in_flight__the_others_share_the_next(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        first = callers.submit(shared.get, "key", work, deadline=10)
        work.wait_for_run(1)
        arrived = threading.Barrier(11)

        def arrive() -> tuple[float, int]:
            arrived.wait()
            at = time.monotonic()
            return at, shared.get("key", work, deadline=10)

        later = [callers.submit(arrive) for _ in range(10)]
        arrived.wait()
        wait_until(lambda: waiting(shared))
        work.end()
        assert first.result() == 1
        work.end(20)  # whoever was late to the second has runs of his own
        results = [future.result() for future in later]
        assert all(work.begun[number - 1] >= at for at, number in results)
        assert len(work.begun) <= 4
        assert work.most_at_once == 1

    def test_without_pause__never_two_at_once_and_no_old_news(
        self, shared: SingleFlight[int], callers: ThreadPoolExecutor
    ) -> None:
        running: list[int] = []

        def work(remaining: float) -> float:
            running.append(1)
            assert len(running) == 1
            began = time.monotonic()
            threading.Event().wait(0.001)
            running.pop()
            return began

        def ask() -> bool:
            at = time.monotonic()
            return shared.get("key", work, deadline=10) >= at  # type: ignore[arg-type]

        assert all(f.result() for f in [callers.submit(ask) for _ in range(2000)])

    def test_other_key__does_not_wait(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        futures = [callers.submit(shared.get, key, work, deadline=10) for key in "abc"]
        work.wait_for_run(3)
        assert work.most_at_once == 3
        work.end(3)
        assert sorted(future.result() for future in futures) == [1, 2, 3]

    def test_other_key_behind_one_that_waits__does_not_wait(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        futures = [callers.submit(shared.get, "a", work, deadline=10)]
        work.wait_for_run(1)
        futures.append(callers.submit(shared.get, "a", work, deadline=10))
        wait_until(lambda: waiting(shared))
        futures.append(callers.submit(shared.get, "b", work, deadline=10))
        work.wait_for_run(2)
        assert waiting(shared) == 1
        work.end(3)
        assert sorted(future.result() for future in futures) == [1, 2, 3]

    def test_time_already_waited__is_taken_from_the_run(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        first = callers.submit(shared.get, "key", work, deadline=10)
        work.wait_for_run(1)
        second = callers.submit(shared.get, "key", work, deadline=0.6)
        wait_until(lambda: waiting(shared))
        flight = shared._waiting["key"]
        wait_until(lambda: time.monotonic() > flight.ends - 0.2)
        work.end(2)
        assert (first.result(), second.result()) == (1, 2)
        assert work.remaining[1] == sharing.GRACE

    def test_caller_with_a_later_deadline_joins__the_run_may_last_until_then(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        first = callers.submit(shared.get, "key", work, deadline=20)
        work.wait_for_run(1)
        second = callers.submit(shared.get, "key", work, deadline=5)
        wait_until(lambda: waiting(shared))
        flight = shared._waiting["key"]
        third = callers.submit(shared.get, "key", work, deadline=20)
        wait_until(lambda: flight.ends > time.monotonic() + 10, what="the third caller")
        work.end(2)
        assert (first.result(), second.result(), third.result()) == (1, 2, 2)
        assert work.remaining[1] > 10


class TestBounds:
    def test_many_different_questions__eight_at_once_and_the_others_in_turn(
        self, shared: SingleFlight[int], work: Work
    ) -> None:
        with ThreadPoolExecutor(40) as callers:
            futures = [callers.submit(shared.get, key, work, deadline=20) for key in range(40)]
            wait_until(lambda: len(work.begun) == 8 and waiting(shared) == 32)
            work.end(40)
            assert sorted(future.result() for future in futures) == list(range(1, 41))
        assert work.most_at_once == 8

    def test_no_place_within_the_deadline__an_error(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        busy = [callers.submit(shared.get, key, work, deadline=20) for key in range(8)]
        work.wait_for_run(8)
        with pytest.raises(BrokerUnavailable):
            shared.get("one more", work, deadline=0.1)
        work.end(8)
        assert sorted(future.result() for future in busy) == list(range(1, 9))
        assert len(work.begun) == 8

    def test_runs_that_hang__32_threads_at_the_most(
        self, shared: SingleFlight[int], work: Work
    ) -> None:
        with ThreadPoolExecutor(40) as callers:
            futures = [callers.submit(shared.get, key, work, deadline=0.1) for key in range(8)]
            for start in range(8, 40, 8):
                for future in futures:
                    assert isinstance(future.exception(), BrokerUnavailable)
                keys = range(start, start + 8)
                futures = [callers.submit(shared.get, key, work, deadline=0.1) for key in keys]
            for future in futures:
                assert isinstance(future.exception(), BrokerUnavailable)
        assert work.at_once == 32


class TestErrors:
    def test_error__to_everyone_with_an_exception_of_his_own(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        work.raises = error = BrokerUnavailable("it is gone")
        first = callers.submit(shared.get, "key", work, deadline=10)
        work.wait_for_run(1)
        later = [callers.submit(shared.get, "key", work, deadline=10) for _ in range(5)]
        wait_until(lambda: waiting(shared))
        work.end(10)
        raised = [future.exception() for future in (first, *later)]
        assert all(type(e) is BrokerUnavailable and e.args == ("it is gone",) for e in raised)
        assert len({id(e) for e in raised}) == len(raised)
        assert error not in raised
        # The frames of what would be chained hold the broker's URL.
        assert all(e.__cause__ is None and e.__context__ is None for e in raised if e is not None)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), ZeroDivisionError()])
    def test_anything_else__an_error_and_nobody_is_stuck(
        self,
        shared: SingleFlight[int],
        work: Work,
        callers: ThreadPoolExecutor,
        raised: BaseException,
    ) -> None:
        work.raises = raised
        first = callers.submit(shared.get, "key", work, deadline=10)
        work.wait_for_run(1)
        second = callers.submit(shared.get, "key", work, deadline=10)
        wait_until(lambda: waiting(shared))
        work.end()
        assert isinstance(first.exception(5), SnapshotFailed)
        work.wait_for_run(2)
        work.raises = None
        work.end()
        assert second.result(5) == 2

    def test_no_thread_to_be_had__an_error_and_the_next_is_served(
        self, shared: SingleFlight[int], work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        work.end()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(SnapshotFailed):
                shared.get("key", work, deadline=10)
        assert shared.get("key", work, deadline=10) == 1


class TestHanging:
    def test_run_that_hangs__callers_go_in_time_and_later_ones_are_served(
        self,
        shared: SingleFlight[int],
        work: Work,
        callers: ThreadPoolExecutor,
    ) -> None:
        def timed() -> tuple[BaseException | None, float]:
            began = time.monotonic()
            try:
                shared.get("key", work, deadline=0.2)
            except CeleryStatsError as exc:
                return exc, time.monotonic() - began
            return None, 0.0

        first = callers.submit(timed)
        work.wait_for_run(1)
        # One for the run that is never to come.
        for future in (first, callers.submit(timed)):
            error, seconds = future.result()
            assert isinstance(error, BrokerUnavailable)
            assert str(error) == "no snapshot within 0.7 s"
            assert seconds < 0.2 + 1
        # The first is still at it; whoever comes now does not wait for it.
        later = callers.submit(shared.get, "key", work, deadline=10)
        work.wait_for_run(2)
        work.end(3)
        assert later.result() in (1, 2, 3)

    def test_run_is_overdue_and_nobody_else_comes__the_waiting_caller_is_answered(
        self, shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
    ) -> None:
        hanging = callers.submit(shared.get, "key", work, deadline=0.1)
        work.wait_for_run(1)
        waits = callers.submit(shared.get, "key", work, deadline=20)
        wait_until(lambda: waiting(shared))
        assert isinstance(hanging.exception(), BrokerUnavailable)
        work.wait_for_run(2)
        assert 15 < work.remaining[1] <= 20
        work.end(2)
        assert waits.result(10) in (1, 2)

    def test_overdue_run_ends_late__leaves_its_successor_in_peace(
        self, shared: SingleFlight[int], callers: ThreadPoolExecutor
    ) -> None:
        ends = {"slow": threading.Event(), "quick": threading.Event()}
        begun: list[str] = []

        def run(name: str) -> Callable[[float], int]:
            def work(remaining: float) -> int:
                begun.append(name)
                assert ends[name].wait(20)
                return len(begun)

            return work

        with pytest.raises(BrokerUnavailable):
            shared.get("key", run("slow"), deadline=0.1)
        quick = callers.submit(shared.get, "key", run("quick"), deadline=10)
        wait_until(lambda: "quick" in begun)
        flying = [t for t in threading.enumerate() if t.name == "celery-stats"]
        ends["slow"].set()
        wait_until(lambda: sum(t.is_alive() for t in flying) == 1, what="the end of the slow one")
        # Still in flight, so that whoever comes waits for the next.
        last = callers.submit(shared.get, "key", run("quick"), deadline=10)
        wait_until(lambda: waiting(shared))
        ends["quick"].set()
        assert (quick.result(), last.result()) == (2, 3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12
def test_after_a_fork__the_child_does_not_wait_for_the_parents_run(
    shared: SingleFlight[int], work: Work, callers: ThreadPoolExecutor
) -> None:
    first = callers.submit(shared.get, "key", work, deadline=20)
    work.wait_for_run(1)
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(10)  # Without it, a lock that is locked for ever would stop the test run.
        with suppress(BaseException):
            status = 0 if shared.get("key", lambda remaining: 7, deadline=5) == 7 else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    work.end()
    assert first.result() == 1


def get() -> Response:
    """Ask as a support user; without a token, as threads do not share a database in memory."""
    client = APIClient()
    client.force_authenticate(User(username="support", is_support=True))
    return client.get(URL)


class TestRequests:
    """The same through the endpoint, in one process of many threads."""

    def test_64_at_once__a_handful_of_snapshots_and_all_whole(
        self, make_broker: MakeBroker, use: Use
    ) -> None:
        broker = use(make_broker())
        together = threading.Barrier(64)

        def ask() -> Response:
            together.wait()
            return get()

        with Mailbox(broker, "one@t", Mailbox.answer) as mailbox:
            with ThreadPoolExecutor(64) as executor:
                responses = [f.result() for f in [executor.submit(ask) for _ in range(64)]]
            assert {r.status_code for r in responses} == {200}
            assert all(list(r.json()[name]) == ["one@t"] for r in responses for name in FIELDS)
            assert all(mailbox.heard.count(name) <= 6 for name in FIELDS)

    def test_under_load__every_answer_tells_what_was_so_when_it_was_asked(
        self, make_broker: MakeBroker, use: Use
    ) -> None:
        broker = use(make_broker("redis", "one@t"))
        over = threading.Event()

        def load() -> set[int]:
            statuses = set()
            while not over.is_set():
                statuses.add(get().status_code)
            return statuses

        with ThreadPoolExecutor(16) as executor:
            others = [executor.submit(load) for _ in range(16)]
            try:
                for _ in range(15):
                    task_id = uuid()
                    broker.app.control.revoke(task_id, reply=True, limit=1, timeout=10)
                    assert task_id in get().json()["revoked"]["one@t"]
            finally:
                over.set()
            assert {status for future in others for status in future.result()} == {200}

    def test_one_after_the_other__on_one_connection(
        self, make_broker: MakeBroker, use: Use, redis_server: RedisServer
    ) -> None:
        broker = use(make_broker())
        with Mailbox(broker, "one@t", Mailbox.answer), redis_server.client() as client:
            get()
            before = client.info("stats")["total_connections_received"]
            for _ in range(5):
                assert list(get().json()["stats"]) == ["one@t"]
            assert client.info("stats")["total_connections_received"] == before
