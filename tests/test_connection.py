"""The private connection: time-outs, polling, and what it relies on in kombu."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
from celery import Celery

from celery_stats.control.broker import Connections
from celery_stats.control.configuration import configured_connection
from celery_stats.control.connection import ControlConnection
from celery_stats.control.exceptions import BrokerUnavailable, RemoteControlUnsupported
from tests.brokers import MakeBroker
from tests.celery_app import make_app
from tests.conftest import KINDS
from tests.processes import wait_until

Connect = Callable[..., ControlConnection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    opened: list[ControlConnection] = []

    def open_connection(app: Celery, deadline: float = 6.0) -> ControlConnection:
        opened.append(ControlConnection(app, deadline))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close()


def test_virtual_transport__polled_at_our_interval(
    make_broker: MakeBroker, connect: Connect
) -> None:
    connection = connect(make_broker("filesystem").app)
    assert connection.connection.transport.polling_interval == 0.005


@pytest.mark.parametrize(
    ("configured", "expected"),
    [({}, 0.875), ({"socket_timeout": 0.5}, 0.5), ({"socket_timeout": 30}, 0.875)],
    ids=["none", "shorter", "longer"],
)
def test_redis__waits_no_longer_than_its_share_of_the_deadline(
    make_broker: MakeBroker, connect: Connect, configured: dict[str, Any], expected: Any
) -> None:
    app = make_broker(broker_transport_options=configured).app
    options = connect(app).channel.pool.connection_kwargs
    assert options["socket_timeout"] == expected
    assert options["socket_connect_timeout"] == 0.875


def test_redis__the_undocumented_attributes_of_kombu_are_there(
    make_broker: MakeBroker, connect: Connect
) -> None:
    """Without them every question waits a whole time-out, and closing takes a second."""
    broker = make_broker()
    connection = connect(broker.app)
    assert connection.channel.keyprefix_fanout == f"/{broker.app.connection().virtual_host}."
    with connection.channel.conn_or_acquire() as client:
        assert client.publish("nobody listens", "") == 0
    with connection.replies(lambda message: None):
        connection.drain(0.01)
        assert callable(vars(connection.channel)["client"].connection.disconnect)


@pytest.mark.skipif(sys.platform != "linux", reason="py-amqp does this on Linux")
def test_amqp__segment_size_that_cannot_be_set_again(
    make_broker: MakeBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux tells up to 65 483 on loopback, and lets nobody set more than 32 767."""
    app = make_broker("amqp").app
    read = socket.socket.getsockopt

    def getsockopt(sock: socket.socket, level: int, option: int, *size: int) -> Any:
        is_segment = (level, option) == (socket.SOL_TCP, socket.TCP_MAXSEG)
        return 65483 if is_segment else read(sock, level, option, *size)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "getsockopt", getsockopt)
        assert connect(app).connection.connected


@pytest.mark.parametrize("kind", KINDS)
def test_pools_of_the_app__not_used(make_broker: MakeBroker, connect: Connect, kind: str) -> None:
    app = make_broker(kind, broker_pool_limit=1).app
    with app.pool.acquire(), connect(app).replies(lambda message: None):
        connect(app).publish("ping", {}, expires=1.0)


def test_address_is_avoided_no_longer__while_two_connect(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one to begin forgets the address before the first one has connected."""
    app, connections = make_broker().app, Connections()
    connections._hanging["redis://avoided"] = time.monotonic() + 0.1
    connection_for_write = app.connection_for_write

    def ask() -> str:
        ends = time.monotonic() + 4
        return connections.run(app, 4.0, ends, lambda connection: connection.driver)

    def another_asks_first() -> Any:
        monkeypatch.setattr(app, "connection_for_write", connection_for_write)
        time.sleep(0.1)
        assert ask() == "redis"
        return connection_for_write()

    monkeypatch.setattr(app, "connection_for_write", another_asks_first)
    assert ask() == "redis"
    connections.close()


@pytest.mark.parametrize("kind", KINDS)
def test_late_replies__read_on_amqp_alone(
    make_broker: MakeBroker, connect: Connect, kind: str
) -> None:
    """A virtual transport would keep the reply queue of a process that was killed."""
    broker = make_broker(kind)
    connection = connect(broker.app)
    with connection.replies(lambda message: None):
        pass
    heard: list[str] = []
    if kind == "amqp":
        with kombu.Connection(broker.url) as other:
            other.Producer().publish("late", routing_key=connection.reply_queue.name)

    def read() -> bool:
        connection.read_late(lambda message: heard.append(message.body))
        return bool(heard) or kind != "amqp"

    wait_until(read, what="the late message")
    assert heard == (["late"] if kind == "amqp" else [])


def test_no_broker_in_the_settings__unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match="'tests' names no broker"):
        configured_connection(make_app({}))


def test_unknown_transport__no_remote_control() -> None:
    with pytest.raises(RemoteControlUnsupported):
        configured_connection(make_app({"broker_url": "pigeon://localhost"}))
