"""Reading several replies from Redis in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest

from celery_stats.control.connection import ControlConnection
from tests.brokers import Broker, RedisServer

Connect = Callable[..., ControlConnection]


@pytest.fixture
def broker(own_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[Broker]:
    broker = Broker(
        "redis", f"redis://127.0.0.1:{own_redis.port}/0", **getattr(request, "param", {})
    )
    yield broker
    broker.close()


@pytest.fixture
def connection(broker: Broker) -> Iterator[ControlConnection]:
    connection = ControlConnection(broker.app, 6.0)
    yield connection
    connection.close()


def fill(broker: Broker, connection: ControlConnection, *bodies: Any, **options: Any) -> None:
    with broker.app.connection_for_write() as other:
        for body in bodies:
            other.Producer().publish(body, routing_key=connection.reply_queue.name, **options)


class Heard(list[Any]):
    """The bodies of the replies, and how many of them each read handed on."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def take(self, message: kombu.Message) -> None:
        self.append(message.decode())

    def drain(self, connection: ControlConnection) -> None:
        while connection.drain(0.05):
            self.sizes.append(len(self) - sum(self.sizes))


def calls(server: RedisServer, command: str) -> int:
    stats = server.client().info("commandstats").get(f"cmdstat_{command}", {})
    return int(stats.get("calls", 0)) + int(stats.get("rejected_calls", 0))


@pytest.mark.parametrize(
    "broker",
    [{}, {"broker_transport_options": {"global_keyprefix": "shop:"}}],
    ids=["plain", "prefix"],
    indirect=True,
)
def test_replies_that_are_there__read_together_and_in_order(
    own_redis: RedisServer, broker: Broker, connection: ControlConnection
) -> None:
    heard = Heard()
    with connection.replies(heard.take):
        fill(broker, connection, *range(40))
        heard.drain(connection)
    assert heard == list(range(40))
    assert heard.sizes == [1, 16, 16, 7]


def test_many_replies__further_ones_gather(
    broker: Broker, connection: ControlConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that come while the reader waits are read with the one that it waits for."""
    heard = Heard()
    with connection.replies(heard.take):
        fill(broker, connection, *range(70))

        def arrive(seconds: float) -> None:
            fill(broker, connection, *range(len(heard), 80))

        monkeypatch.setattr("celery_stats.control.redis_reader.time.sleep", arrive)
        heard.drain(connection)
    assert heard == list(range(80))
    assert heard.sizes == [1, 16, 16, 16, 16, 5, 10]


def test_server_that_refuses__read_one_by_one(
    own_redis: RedisServer, broker: Broker, connection: ControlConnection
) -> None:
    own_redis.client().execute_command("ACL", "SETUSER", "default", "-rpop")
    for _ in range(2):
        heard = Heard()
        with connection.replies(heard.take):
            fill(broker, connection, *range(3))
            heard.drain(connection)
        assert heard == [0, 1, 2]
        assert heard.sizes == [1, 1, 1]
    assert calls(own_redis, "rpop") == 1


def test_message_that_is_none__the_others_are_read(
    own_redis: RedisServer, broker: Broker, connection: ControlConnection
) -> None:
    heard = Heard()
    with connection.replies(heard.take):
        fill(broker, connection, 0, 1)
        for payload in ("{", "[]", "{}", '{"body": ""}'):
            own_redis.client().lpush(connection.reply_queue.name, payload)
        fill(broker, connection, 2)
        heard.drain(connection)
        assert not connection.reusable
    assert heard == [0, 1, 2]


@pytest.mark.parametrize("broker", [{"accept_content": ["json"]}], indirect=True)
def test_content_type_that_is_not_accepted__refused(
    broker: Broker, connection: ControlConnection
) -> None:
    """kombu's consumer says what is accepted, for these messages as well."""
    refused = []

    def take(message: kombu.Message) -> None:
        with pytest.raises(kombu.exceptions.ContentDisallowed):
            message.decode()
        refused.append(message)

    with connection.replies(take):
        fill(broker, connection, {1}, {2}, {3}, serializer="pickle")
        while connection.drain(0.05):
            pass
    assert len(refused) == 3
