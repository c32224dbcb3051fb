"""RabbitMQ: an answer follows from what came back to this question."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, deaf_afterwards
from tests.mailbox import Mailbox
from tests.network import Proxy
from tests.processes import wait_until
from tests.test_evidence import accounted_for, proxied, through

#: Seconds of silence after which somebody who is silent in a test is given up.
WINDOW = 0.5

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
        # In this form they can be sent.
        wait_until(lambda: inspect.active(safe=True)["one@t"], what="the task at work")
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
        for _ in range(4):
            snapshot = take(broker.app, 1.0)
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
        proxy.delay = 0.08
        for _ in range(5):
            assert accounted_for(take(broker.app, 1.0)) == {"one@t"}


def test_reply_that_may_not_be_decoded__counted(make_broker: MakeBroker) -> None:
    """RabbitMQ lists nobody, so no name is known."""
    broker = make_broker("amqp", accept_content=["json"])
    broker.start("one@t", accept_content=["json", "pickle"], task_serializer="pickle").ready()
    for _ in range(2):
        snapshot = take(broker.app, WINDOW)
        assert workers_by_field(snapshot) == everywhere()
        assert snapshot.unreadable > 0


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
    """It is not too old for the next question as long as it is used."""
    broker = make_broker("amqp")
    clock, ahead = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead)
    with proxied(broker) as (proxy, app), Mailbox(broker, "one@t", Mailbox.answer):
        for _ in range(4):
            assert workers_by_field(take(app, WINDOW)) == everywhere("one@t")
            ahead += 6
        assert len(proxy.said) == 1
