"""RabbitMQ: an answer follows from what came back to this question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, deaf_afterwards
from tests.network import Proxy
from tests.processes import wait_until
from tests.test_evidence import WINDOW, accounted_for, proxied, through


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
        assert snapshot.unreadable > 0
