"""RabbitMQ: an answer follows from what came back to this question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from typing import Any

import pytest

from celery_stats.control.broker import connections_for
from celery_stats.shapes import FIELDS
from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, deaf_afterwards
from tests.mailbox import Mailbox, answer_if
from tests.network import Proxy
from tests.processes import wait_until
from tests.test_evidence import WINDOW, accounted_for, proxied, set_clock_ahead, through


@contextmanager
def worker_that_cannot_encode(broker: Broker) -> Iterator[Proxy]:
    """Run a worker without the app whose tasks have arguments that it cannot send.

    It resets its mailbox after each reply that it loses: for a moment its mailbox is away, and
    what arrives meanwhile is lost. The hop between it and the broker can make this longer.
    """
    with proxied(broker) as (proxy, _):
        [worker] = broker.fleet("one@t", broker_url=through(broker, proxy.port))
        for options in ({}, {}, {"countdown": 3600}):
            broker.send({1, 2}, seconds=600, serializer="pickle", **options)
        wait_until(lambda: worker.log.read_text().count("received") == 3, what="its tasks")
        inspect = broker.client().control.inspect(timeout=1, limit=1)

        def at_work() -> bool:
            found = inspect.active(safe=True) or {}  # in a form that can be sent
            return bool(found.get("one@t"))

        wait_until(at_work, what="the task at work")
        yield proxy
        worker.kill()


@deaf_afterwards
@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_worker_that_cannot_encode_its_arguments__whole_but_for_them_each_time(
    make_broker: MakeBroker, delay: float
) -> None:
    broker = make_broker("amqp")
    with worker_that_cannot_encode(broker) as proxy:
        proxy.delay = delay
        for _ in range(3):
            snapshot = take(broker.app, 2.0)
            assert snapshot.missing == {"one@t": ("scheduled", "reserved")}
            [task] = (snapshot.answers["active"] or {})["one@t"]
            assert task["args"] == "({1, 2},)"


@deaf_afterwards
def test_mailbox_is_away_when_it_is_looked_for__not_taken_for_gone(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("amqp")
    with worker_that_cannot_encode(broker) as proxy:
        assert accounted_for(take(broker.app, 1.0)) == {"one@t"}
        proxy.delay = 0.1
        for _ in range(4):
            assert accounted_for(take(broker.app, 1.0)) == {"one@t"}


def test_reply_that_may_not_be_decoded__counted(make_broker: MakeBroker) -> None:
    """RabbitMQ lists nobody, so no name is known."""
    broker = make_broker("amqp", accept_content=["json"])
    broker.start("one@t", accept_content=["json", "pickle"], task_serializer="pickle").ready()
    for _ in range(2):
        snapshot = take(broker.app, WINDOW)
        assert workers_by_field(snapshot) == everywhere()
        assert snapshot.unreadable == 1


def test_more_replies_than_one_question_takes__the_next_on_a_new_connection(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not read waits on the old one."""
    monkeypatch.setattr("celery_stats.control.collector.MAX_REPLIES", 2 * 2**20)
    broker = make_broker("amqp")

    def many(mailbox: Mailbox, command: dict[str, Any]) -> None:
        for number in range(5):
            mailbox.reply(command, {f"{number}@t": "x" * 2**20})

    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", many):
        for connections in (1, 2):
            take(app, WINDOW)
            assert len(proxy.said) == connections


def test_reply_to_a_question_that_nobody_asked__makes_nobody_a_worker(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("amqp")

    def speak(mailbox: Mailbox, command: dict[str, Any]) -> None:
        mailbox.reply({**command, "ticket": "made up"}, {"beat@t": {}})
        mailbox.answer_jointly(command)

    only_pong = answer_if(lambda _, method: method == "ping")
    with Mailbox(broker, "one@t", speak), Mailbox(broker, "beat@t", only_pong):
        for _ in range(2):
            snapshot = take(broker.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}


def test_worker_that_lost_a_reply_has_left__missing_for_a_minute_and_then_forgotten(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker("amqp")
    loses_one = answer_if(lambda _, method: method != "reserved")
    with Mailbox(broker, "one@t", Mailbox.answer_jointly):
        with Mailbox(broker, "lost@t", loses_one):
            assert take(broker.app, 1.0).missing == {"lost@t": ("reserved",)}
        assert take(broker.app, WINDOW).missing == {"lost@t": FIELDS}
        set_clock_ahead(monkeypatch, 61.0)
        snapshot = take(broker.app, WINDOW)
    assert workers_by_field(snapshot) == everywhere("one@t")
    assert snapshot.missing == {}


def test_worker_repeats_an_old_answer__the_others_are_given_up_after_the_timeout(
    make_broker: MakeBroker,
) -> None:
    """Only what is new ends a silence."""
    broker = make_broker("amqp")
    asked: list[dict[str, Any]] = []
    speaks = threading.Event()

    def remember(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] != "ping":
            asked.append(command)
        mailbox.answer_jointly(command)

    def repeat() -> None:
        if not speaks.is_set() and asked and not pause.wait(0.3):
            mailbox.answer_jointly(asked[-1])

    pause = threading.Event()
    mute = answer_if(lambda *_: speaks.is_set())
    with Mailbox(broker, "one@t", remember) as mailbox, Mailbox(broker, "mute@t", mute):
        speaks.set()
        take(broker.app, 1.0)
        asked.clear()
        mailbox.on_idle = repeat
        speaks.clear()
        snapshot = take(broker.app, 0.5, deadline=8.0)
        speaks.set()
    assert snapshot.missing == {"mute@t": FIELDS}
    assert snapshot.elapsed < 4


def test_many_workers_have_left__their_mailboxes_are_not_looked_for_one_by_one(
    make_broker: MakeBroker,
) -> None:
    """Each costs several exchanges. A hostile worker can make up any number of names."""
    broker = make_broker("amqp")
    left = [f"{number:03}@made-up" for number in range(200)]

    def many(mailbox: Mailbox, command: dict[str, Any]) -> None:
        for name in (mailbox.name, *(left if len(mailbox.heard) == 1 else ())):
            mailbox.answer(command, name)

    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", many):
        assert set(left) < accounted_for(take(app, WINDOW, deadline=6.0, fields=("stats",)))
        proxy.delay = 0.02
        began = time.monotonic()
        snapshot = take(app, WINDOW, deadline=6.0, fields=("stats",))
        assert time.monotonic() - began < 7
    assert workers_by_field(snapshot)["stats"] == ["one@t"]


def test_pong_of_a_beat_comes_late__not_taken_for_a_worker(make_broker: MakeBroker) -> None:
    broker = make_broker("amqp")
    is_over = threading.Event()

    def late(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "ping":
            assert is_over.wait(20)
            mailbox.answer(command)

    with Mailbox(broker, "one@t", Mailbox.answer_jointly), Mailbox(broker, "beat@t", late):
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
        is_over.set()
        (kept,) = connections_for(broker.app)._idle
        sock = kept.connection.connection.sock
        wait_until(lambda: select([sock], [], [], 0)[0], what="the late pong")
        for _ in range(2):
            snapshot = take(broker.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}
