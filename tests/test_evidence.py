"""Redis and RabbitMQ: an answer follows from what came back to this question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import pytest
from celery import Celery

from celery_stats.control.broker import connections_for
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.control.mailboxes import Mailboxes
from celery_stats.control.question import Options, Question
from celery_stats.control.snapshot import Snapshot, take_snapshot
from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker
from tests.conftest import KINDS
from tests.mailbox import Mailbox
from tests.network import Proxy
from tests.processes import wait_until

#: Seconds of silence after which somebody who is silent in a test is given up.
WINDOW = 0.5

#: kombu 5.7 adds a worker's name to Redis' list again one second after its start, and from then
#: on every 20 minutes. With this a worker is like one that has run for longer.
NOT_ADDED_AGAIN: dict[str, Any] = {"control_queue_expires": None}

on_both = pytest.mark.parametrize("kind", ["redis", "amqp"])


def set_clock_ahead(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let this time pass for whatever is remembered. A second call adds to the first one."""
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds)
    monkeypatch.setattr(Mailboxes, "now", staticmethod(time.monotonic))


def through(broker: Broker, port: int) -> str:
    """Return the broker's URL with another port."""
    return broker.url.replace(f":{kombu.Connection(broker.url).port}/", f":{port}/")


@contextmanager
def proxied(broker: Broker) -> Iterator[tuple[Proxy, Celery]]:
    """Yield a hop to the broker, and an app that goes through it."""
    proxy = Proxy(kombu.Connection(broker.url).port)
    try:
        yield proxy, broker.client(broker_url=through(broker, proxy.port))
    finally:
        proxy.close()


#: The end of the frame with which a client closes its connection.
CLOSE = b"\x00\x0a\x00\x32"


def closed_in_order(said: bytearray) -> bool:
    """Whether a client has sent ``connection.close`` on channel 0."""
    at = said.find(CLOSE)
    while at >= 0:
        if said[at - 7 : at - 4] == b"\x01\x00\x00":
            return True
        at = said.find(CLOSE, at + 1)
    return False


def accounted_for(snapshot: Snapshot) -> set[str]:
    """Return who stands under any field, or is named as missing."""
    return {*snapshot.missing, *(w for ws in workers_by_field(snapshot).values() for w in ws)}


class StandsStill:
    """Makes the asking thread stand still in its first read, for longer than ``WINDOW``.

    When it continues, the read has run into its own time-out, as in a gevent hub that was
    blocked: what came meanwhile waits in the socket.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stood = False
        drain_events, asking = kombu.Connection.drain_events, threading.current_thread()

        def drain(connection: kombu.Connection, **options: Any) -> Any:
            if threading.current_thread() is asking and not self.stood:
                self.stood = True
                time.sleep(WINDOW + 0.2)
                raise TimeoutError
            return drain_events(connection, **options)

        monkeypatch.setattr(kombu.Connection, "drain_events", drain)


@on_both
class TestStandingStill:
    def test_answers_came_meanwhile__all_heard(
        self, make_broker: MakeBroker, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = make_broker(kind)
        broker.fleet("one@t", "two@t", with_app=True)
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t", "two@t")
        still = StandsStill(monkeypatch)
        snapshot = take(broker.app, WINDOW)
        assert still.stood
        assert workers_by_field(snapshot) == everywhere("one@t", "two@t")
        assert snapshot.missing == {}

    def test_answer_was_lost_meanwhile__pinged_and_asked_again(
        self, make_broker: MakeBroker, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = make_broker(kind)
        loses = threading.Event()

        def lose_one(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if loses.is_set() and command["method"] != "ping":
                loses.clear()
            else:
                mailbox.answer(command)

        with Mailbox(broker, "one@t", lose_one):
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
            loses.set()
            still = StandsStill(monkeypatch)
            snapshot = take(broker.app, WINDOW)
        assert still.stood
        assert workers_by_field(snapshot) == everywhere("one@t")


@pytest.mark.parametrize("kind", KINDS)
def test_silent_once_and_slow_after_an_answer__waited_for(
    make_broker: MakeBroker, kind: str
) -> None:
    """The silence is forgotten with the answer, so that it is not given up earlier again."""
    broker = make_broker(kind)
    [worker] = broker.fleet("one@t", **NOT_ADDED_AGAIN)
    assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
    if kind == "redis":
        # A worker that is listed is waited for anyway.
        with broker.app.connection_for_write() as connection:
            connection.default_channel.client.flushdb()
    worker.freeze()
    assert workers_by_field(take(broker.app, WINDOW)) == everywhere()
    worker.thaw()
    worker.ready()
    assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
    worker.freeze()
    broker.app.control.broadcast("ping")  # It is late with more than the question.
    timer = threading.Timer(WINDOW, worker.thaw)
    timer.start()
    snapshot = take(broker.app)
    timer.join()
    assert workers_by_field(snapshot) == everywhere("one@t")


@on_both
def test_broker_is_frozen_and_nobody_is_known__unavailable(
    make_broker: MakeBroker, kind: str
) -> None:
    """Nobody answers either way, so only the broker can tell that nobody is there."""
    with proxied(make_broker(kind)) as (proxy, app):
        assert workers_by_field(take(app, WINDOW, deadline=3.0)) == everywhere()
        proxy.freeze()
        with pytest.raises(BrokerUnavailable):
            take(app, WINDOW, deadline=3.0)


@on_both
class TestDeadline:
    @pytest.mark.parametrize("delay", [0.1, 0.3, 0.6])
    def test_every_exchange_is_late__holds_for_their_sum(
        self, make_broker: MakeBroker, kind: str, delay: float
    ) -> None:
        broker = make_broker(kind)
        with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", Mailbox.answer):
            proxy.delay = delay
            began = time.monotonic()
            with suppress(BrokerUnavailable):
                take(app, 1.0, deadline=2.0)
            assert time.monotonic() - began < 3

    def test_one_exchange_takes_a_quarter_of_it__is_waited_for(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)

        def stall(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if thaw.ident is None:
                proxy.freeze()
                thaw.start()
            mailbox.answer(command)

        with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", stall):
            thaw = threading.Timer(1.5, proxy.thaw)
            assert workers_by_field(take(app, 2.5, deadline=6.0)) == everywhere("one@t")

    def test_part_of_it_is_over__only_the_rest_is_left(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)
        with Mailbox(broker, "one@t", lambda *_: None):
            began = time.monotonic()
            take_snapshot(Question(), Options(broker.app, 18.0, 20.0), 2.0)
            assert time.monotonic() - began < 10


@on_both
def test_first_of_two_urls_is_frozen__tried_by_the_first_question_alone(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind)
    with (
        Mailbox(broker, "one@t", Mailbox.answer),
        proxied(broker) as (frozen, _),
        proxied(broker) as (proxy, _),
    ):
        frozen.freeze()
        urls = f"{through(broker, frozen.port)};{through(broker, proxy.port)}"
        app = broker.client(broker_url=urls)
        assert workers_by_field(take(app, WINDOW, deadline=3.0)) == everywhere("one@t")
        tried = len(frozen.said)
        assert tried > 0
        for _ in range(2):
            proxy.cut()  # The next question needs a new connection.
            assert workers_by_field(take(app, WINDOW, deadline=3.0)) == everywhere("one@t")
        assert len(frozen.said) == tried


def test_asked_every_eleven_seconds__connections_are_closed_in_order(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("amqp")
    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", Mailbox.answer):
        take(app, WINDOW)
        time.sleep(11)  # longer than a firewall may need to forget a connection
        take(app, WINDOW)
        first, *others = proxy.said
        assert len(others) == 1
        wait_until(lambda: closed_in_order(first), seconds=2, what="its close")


def test_asked_every_six_seconds__one_connection(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not too old for the next question as long as it is used, nor is the deadline over."""
    broker = make_broker("amqp")
    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", Mailbox.answer):
        for _ in range(4):
            assert workers_by_field(take(app, WINDOW, deadline=5.0)) == everywhere("one@t")
            set_clock_ahead(monkeypatch, 6.0)
        assert len(proxy.said) == 1


def test_asked_twice_within_the_time_that_a_connection_is_kept__closed_afterwards(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time begins anew with the second question."""
    monkeypatch.setattr("celery_stats.control.broker.MAX_IDLE", 1.0)
    broker = make_broker("amqp")
    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", Mailbox.answer):
        for _ in range(2):
            take(app, WINDOW / 2)
        wait_until(lambda: all(map(closed_in_order, proxy.said)), what="the close")


def test_question_during_another_one__one_connection_is_kept(make_broker: MakeBroker) -> None:
    broker = make_broker("amqp")
    held: list[dict[str, Any]] = []
    holds, is_held = threading.Event(), threading.Event()

    def hold_one(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if holds.is_set() and not is_held.is_set():
            held.append(command)
            is_held.set()
        else:
            mailbox.answer_jointly(command)

    with (
        proxied(broker) as (proxy, app),
        Mailbox(broker, "one@t", hold_one) as mailbox,
        ThreadPoolExecutor() as pool,
    ):
        take(app, WINDOW)
        holds.set()
        first = pool.submit(take, app)
        assert is_held.wait(20)
        assert workers_by_field(take(app)) == everywhere("one@t")
        mailbox.on_idle = lambda: mailbox.answer_jointly(held.pop()) if held else None
        assert workers_by_field(first.result()) == everywhere("one@t")
        assert len(connections_for(app)._idle) == 1
        assert len(proxy.said) == 2
