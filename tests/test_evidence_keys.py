"""Redis: its rights, keys and connections, and what a snapshot leaves there."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient

from celery_stats.control import limits
from celery_stats.shapes import FIELDS
from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, RedisServer, Use
from tests.mailbox import Mailbox
from tests.test_command import run
from tests.test_evidence import NOT_ADDED_AGAIN, WINDOW, proxied
from tests.test_evidence_redis import BOTH, URL, client_of, flush
from tests.test_evidence_retry import hold


def reply_keys(client: redis.Redis, broker: Broker) -> list[bytes]:
    """Return the reply lists that nothing removes, and the entries for such lists."""
    lists = client.keys(f"*.reply.{broker.namespace}.pidbox")
    bound = client.smembers(f"_kombu.binding.reply.{broker.namespace}.pidbox")
    for_ever = [key for key in lists if client.ttl(key) == -1 and not key.startswith(b"_kombu.")]
    return [*for_ever, *bound]


class TestWhatRedisRefuses:
    """A user with the rights that Celery's own ``inspect()`` needs."""

    RIGHTS = (
        *("~*.reply.celery.pidbox*", "~_kombu.binding.reply.celery.pidbox"),
        *("~_kombu.binding_deadlines", "~_kombu.binding_permanent.*", "~unacked*"),
        *("&/0.celery.pidbox", "+@all"),
    )

    @pytest.fixture
    def log_in(self, own_redis: RedisServer, alone: Broker) -> Callable[..., Broker]:
        """Return a function that gives the asking side of a broker these rights."""
        alone.config["control_exchange"] = alone.namespace = "celery"
        alone.app.conf.control_exchange = "celery"

        def log_in(*rights: str) -> Broker:
            with own_redis.client() as client:
                client.execute_command("ACL", "SETUSER", "asker", "reset", "on", ">pw", *rights)
            port = own_redis.port
            alone.app = alone.client(broker_url=f"redis://asker:pw@127.0.0.1:{port}/0")
            return alone

        return log_in

    def test_rights_of_inspect__answers_and_one_line_that_names_what_is_refused(
        self,
        log_in: Callable[..., Broker],
        use: Use,
        api: APIClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        broker = use(log_in(*self.RIGHTS))
        _, two = broker.fleet("one@t", "two@t")
        for _ in range(3):
            snapshot = take(broker.app)
            assert workers_by_field(snapshot) == BOTH
            assert snapshot.missing == {}
        [line] = [m for m in caplog.messages if "_kombu.binding.celery.pidbox" in m]
        assert re.search(r"\b(SMEMBERS|SCARD|SSCAN)\b", line)
        assert api.get(URL).status_code == 200
        two.freeze()
        assert take(broker.app, WINDOW).missing == {"two@t": FIELDS}

    def test_rpop_refused__answers(self, log_in: Callable[..., Broker]) -> None:
        broker = log_in(*self.RIGHTS, "~_kombu.binding.celery.pidbox", "-rpop")
        with (
            Mailbox(broker, "one@t", Mailbox.answer),
            Mailbox(broker, "two@t", Mailbox.answer),
        ):
            assert workers_by_field(take(broker.app)) == BOTH

    def test_rights_that_are_useful__queues_too(
        self, log_in: Callable[..., Broker], caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = log_in().app.conf.task_default_queue
        broker = log_in(*self.RIGHTS, "~_kombu.binding.celery.pidbox", f"~{queue}*")
        broker.start("one@t", with_app=True, task_default_queue=f"{queue}.two").ready()
        with client_of(broker) as client:
            client.lpush(queue, "one", "two")
        snapshot = take(broker.app, queues=True)
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert snapshot.queues == {queue: 2, f"{queue}.two": 0}
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_queues_refused__the_others_and_one_line(
        self, log_in: Callable[..., Broker], caplog: pytest.LogCaptureFixture
    ) -> None:
        broker = log_in(*self.RIGHTS, "~_kombu.binding.celery.pidbox")
        with Mailbox(broker, "one@t", Mailbox.answer_jointly):
            for _ in range(2):
                snapshot = take(broker.app, queues=True)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert snapshot.queues == {}
        queue = broker.app.conf.task_default_queue
        assert len([m for m in caplog.messages if queue in m]) == 1


def test_global_keyprefix__the_length_of_the_queue(make_broker: MakeBroker) -> None:
    broker = make_broker(broker_transport_options={"global_keyprefix": "shop:"})
    queue = broker.queues[0]
    broker.send()
    broker.send()
    assert take(broker.app, queues=True).queues == {queue: 2}


@pytest.mark.parametrize("listed", [True, False])
def test_binding_with_another_separator__both_missing_every_time(
    make_broker: MakeBroker, listed: bool
) -> None:
    """It makes kombu raise in every worker that wants to reply."""
    broker = make_broker()
    broker.fleet("one@t", "two@t", **NOT_ADDED_AGAIN)
    assert workers_by_field(take(broker.app)) == BOTH
    if not listed:
        flush(broker)
    with client_of(broker) as client:
        client.sadd(f"_kombu.binding.reply.{broker.namespace}.pidbox", "key:pattern:queue")
    for _ in range(4):
        snapshot = take(broker.app, WINDOW)
        assert workers_by_field(snapshot) == everywhere()
        assert snapshot.missing == {"one@t": FIELDS, "two@t": FIELDS}


@pytest.mark.parametrize("kind", ["string", "large"])
def test_list_of_mailboxes_is_none__answers_all_the_same(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Workers need it for nothing but to be listed."""
    broker = make_broker()
    key = f"_kombu.binding.{broker.namespace}.pidbox"
    monkeypatch.setattr(limits, "MAX_PAYLOAD", 100_000)
    with Mailbox(broker, "one@t", Mailbox.answer), client_of(broker) as client:
        listed = client.smembers(key)
        client.delete(key)
        if kind == "string":
            client.set(key, "no list")
        else:
            client.sadd(key, *listed, *(str(number) + "x" * 60_000 for number in range(3)))
        snapshot = take(broker.app)
        client.delete(key)
    assert workers_by_field(snapshot) == everywhere("one@t")
    assert snapshot.missing == {}


def test_reply_that_may_not_be_decoded__missing_and_not_to_be_removed(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker(accept_content=["json"])
    broker.start("one@t", accept_content=["json", "pickle"], task_serializer="pickle").ready()
    for _ in range(2):
        snapshot = take(broker.app, WINDOW)
        assert workers_by_field(snapshot) == everywhere()
        assert snapshot.missing == {"one@t": FIELDS}
        assert snapshot.unreadable == 1
    done = run(broker, "--timeout", str(WINDOW))
    assert done.returncode == 1
    assert "removes its name" not in (done.stdout + done.stderr).decode()


def test_connection_killed_during_a_snapshot__nothing_stays(alone: Broker) -> None:
    killed = threading.Event()

    def kill_once(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if not killed.is_set() and len(mailbox.heard) == 2:
            for port in proxy.far_ports:
                client.client_kill_filter(addr=f"127.0.0.1:{port}")
            killed.set()
        mailbox.answer_jointly(command)

    with (
        client_of(alone) as client,
        proxied(alone) as (proxy, app),
        Mailbox(alone, "one@t", kill_once),
    ):
        for _ in range(3):
            assert workers_by_field(take(app)) == everywhere("one@t")
        assert killed.is_set()
        assert reply_keys(client, alone) == []


def test_large_reply_comes_after_the_end__no_list_of_it_stays(make_broker: MakeBroker) -> None:
    broker = hold(make_broker(), tasks=9, megabytes=2)
    with client_of(broker) as client:
        for timeout in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
            take(broker.app, timeout)
            # It answers in order, so that all other replies have been sent.
            assert broker.client().control.ping(destination=["one@t"], timeout=10, limit=1)
            assert reply_keys(client, broker) == []


def test_replies_that_nobody_reads__a_new_process_does_not_prolong_their_life(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    table = f"_kombu.binding.reply.{broker.namespace}.pidbox"
    bounded, unbounded = (f"{key}.reply.{broker.namespace}.pidbox" for key in ("one", "two"))
    with client_of(broker) as client, Mailbox(broker, "one@t", Mailbox.answer_jointly):
        for name in (bounded, unbounded):
            client.sadd(table, f"key\x06\x16\x06\x16{name}")
            client.lpush(name, "")
        client.expire(bounded, 30)
        client.sadd(table, f"key\x06\x16\x06\x16{broker.queues[0]}")
        client.lpush(broker.queues[0], "a task")
        take(broker.app)
        assert client.ttl(broker.queues[0]) == -1
        assert 0 < client.ttl(bounded) <= 30
        assert 30 < client.ttl(unbounded) <= 60


def test_ping_by_name_is_answered_after_the_end__no_list_of_it_stays_nor_is_read(
    make_broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    asked: list[dict[str, Any]] = []
    unanswered: list[dict[str, Any]] = []

    def holds_back(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "ping" and command["destination"]:
            # First, because the last answer ends the question.
            unanswered.append(command)
            while asked:
                mailbox.answer(asked.pop(0))
        elif command["method"] in ("ping", "stats"):
            mailbox.answer(command)
        else:
            asked.append(command)

    with client_of(broker) as client, Mailbox(broker, "one@t", holds_back):
        assert workers_by_field(take(broker.app)) == everywhere("one@t")
        # As a worker does that has looked up where to put its reply before the end.
        reply_to = unanswered[0]["reply_to"]
        client.lpush(f"{reply_to['routing_key']}.{reply_to['exchange']}", "a pong")
        assert reply_keys(client, broker) == []
        assert workers_by_field(take(broker.app)) == everywhere("one@t")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
