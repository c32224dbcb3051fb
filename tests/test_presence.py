"""Who is there to answer: the truth in every fleet, and nobody waited for in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from select import select
from typing import Any

import celery
import pytest

from celery_stats.control.broker import connections_for
from celery_stats.control.presence import amqp as amqp_presence
from celery_stats.control.presence import redis as redis_presence
from celery_stats.control.presence.table import TablePresence
from celery_stats.control.snapshot import Snapshot
from celery_stats.shapes import FIELDS
from tests.asking import TIMEOUT, everywhere, take, workers_by_field
from tests.beat import beat
from tests.brokers import Broker, MakeBroker, RedisServer, deaf_afterwards
from tests.mailbox import Mailbox, answer_after, answer_if
from tests.processes import wait_until

#: Seconds of silence that a question waits. On a machine that stands still for so long, nothing
#: is learnt.
WINDOW = 1.5

has_beat = pytest.mark.skipif(
    celery.VERSION < (5, 7), reason="celery beat has remote control from Celery 5.7"
)


@pytest.mark.parametrize("kind", ["redis", "filesystem", "amqp"])
@has_beat
class TestNoWorkers:
    def test_beat__neither_waited_for_nor_missing(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind, "one@t")
        with beat(broker):
            take(broker.app, 1)  # on RabbitMQ the first question waits for unknown workers
            for _ in range(3):
                snapshot = take(broker.app)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert snapshot.missing == {}
                assert snapshot.elapsed < TIMEOUT

    def test_beat_asked_for_by_name__missing(self, make_broker: MakeBroker, kind: str) -> None:
        broker = make_broker(kind, "one@t")
        with beat(broker) as node:
            snapshot = take(broker.app, workers=(node, "one@t"))
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert snapshot.missing == {node: FIELDS}
        assert snapshot.elapsed < TIMEOUT


def test_no_worker__pinged_with_each_question(make_broker: MakeBroker) -> None:
    broker = make_broker()
    pings: list[list[str] | None] = []

    def only_pong(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "ping":
            pings.append(command["destination"])
            mailbox.answer(command)

    broker.fleet("one@t")
    with Mailbox(broker, "celerybeat@t", only_pong) as node:
        assert take(broker.app).missing == {}
        # One ping to every node, two after each command that every worker answers, because the
        # first one may be answered while the mailbox is closed, and one after the last.
        assert node.heard == ["stats", *["query_task"] * 4]
        assert len(pings) == 8
        for _ in range(3):
            assert take(broker.app).missing == {}
        # One with each question, which tells that it is there. A ping to every node would only be
        # sent after a silence.
        assert pings[8:] == [[node.name]] * 3
        assert len(node.heard) == 8


@pytest.mark.parametrize("lost", [1, 4])
def test_worker_whose_replies_are_all_lost__is_no_beat(make_broker: MakeBroker, lost: int) -> None:
    """It answers the ping, and the command that every worker can answer, be it the last time."""
    broker = make_broker()
    forgetful = answer_if(lambda mailbox, method: method == "ping" or len(mailbox.heard) > lost)
    with Mailbox(broker, "forgetful@t", forgetful):
        snapshot = take(broker.app)
    assert workers_by_field(snapshot) == everywhere("forgetful@t")
    assert snapshot.elapsed < TIMEOUT


class TestStrangers:
    """Subscribers that answer nothing, pings included. Patterns are heard across databases."""

    @pytest.fixture
    def broker(self, own_redis: RedisServer) -> Iterator[Broker]:
        broker = Broker("redis", f"redis://127.0.0.1:{own_redis.port}/1")
        yield broker
        broker.close()

    def test_monitoring_tool__waited_for_once(
        self, own_redis: RedisServer, broker: Broker
    ) -> None:
        broker.fleet("one@t")
        with own_redis.client() as client, client.pubsub() as tool:
            tool.psubscribe("*")
            wait_until(lambda: tool.get_message(timeout=1), what="the subscription")
            assert take(broker.app, WINDOW).missing == {}
            for _ in range(3):
                snapshot = take(broker.app)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert snapshot.missing == {}
                assert snapshot.elapsed < TIMEOUT
        # The count has changed, and with it nothing is left to wait for.
        assert take(broker.app).elapsed < TIMEOUT

    def test_another_worker_beside__waited_for(
        self, own_redis: RedisServer, broker: Broker
    ) -> None:
        broker.fleet("one@t")
        with own_redis.client() as client, client.pubsub() as tool:
            tool.psubscribe("*")
            wait_until(lambda: tool.get_message(timeout=1), what="the subscription")
            take(broker.app, WINDOW)
            broker.fleet("two@t")
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t", "two@t")

    def test_that_begins_to_answer__in_the_next_answer(
        self, own_redis: RedisServer, broker: Broker
    ) -> None:
        speaks = threading.Event()
        with (
            Mailbox(broker, "one@t", Mailbox.answer),
            Mailbox(broker, "mute@t", answer_if(lambda *_: speaks.is_set())),
            own_redis.client(db=1) as client,
        ):
            key = f"_kombu.binding.{broker.namespace}.pidbox"
            (row,) = (row for row in client.smembers(key) if b"mute@t" in row)
            client.srem(key, row)
            for timeout in (WINDOW, TIMEOUT):
                snapshot = take(broker.app, timeout)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 1)
            assert snapshot.elapsed < TIMEOUT
            speaks.set()
            snapshot = take(broker.app)
            assert workers_by_field(snapshot) == everywhere("mute@t", "one@t")
            assert snapshot.silent_subscribers == 0


class TestUnlisted:
    def test_of_two_with_one_name__the_living_is_never_missing(
        self, make_broker: MakeBroker
    ) -> None:
        """The first that stops takes the shared name away; another name is stale."""
        broker = make_broker()
        first, _second, doomed = broker.fleet("twin@t", "twin@t", "doomed@t")
        doomed.kill()
        first.stop()
        for asked in ((), ("twin@t",)):
            for _ in range(2):
                snapshot = take(broker.app, workers=asked)
                assert workers_by_field(snapshot) == everywhere("twin@t")
                assert "twin@t" not in snapshot.missing
                assert snapshot.elapsed < TIMEOUT

    @pytest.mark.parametrize("kind", ["redis", "amqp"])
    def test_killed_one_asked_for_by_name__missing_without_a_window(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)
        _one, two = broker.fleet("one@t", "two@t")
        two.kill()
        for _ in range(2):
            snapshot = take(broker.app, workers=("two@t",))
            assert snapshot.missing == {"two@t": FIELDS}
            assert snapshot.elapsed < TIMEOUT


class TestRedisRaces:
    def test_one_leaves_while_it_is_counted__the_other_is_waited_for(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has answered, is not counted any more, and its name is still listed."""
        broker = make_broker()
        looked = threading.Event()
        look = redis_presence.RedisPresence.after_asking

        with Mailbox(broker, "leaving@t", Mailbox.answer_jointly) as leaving:

            def leave(self: Any) -> None:
                wait_until(lambda: leaving.heard, what="its answer")
                client = self.connection.channel.client
                key = f"_kombu.binding.{broker.namespace}.pidbox"
                rows = client.smembers(key)
                leaving.__exit__()
                client.sadd(key, *rows)
                look(self)
                looked.set()

            monkeypatch.setattr(redis_presence.RedisPresence, "after_asking", leave)

            with Mailbox(broker, "slow@t", answer_after(looked)):
                snapshot = take(broker.app)
        assert workers_by_field(snapshot)["stats"] == ["leaving@t", "slow@t"]
        assert "slow@t" not in snapshot.missing

    def test_malformed_rows__skipped(self, make_broker: MakeBroker) -> None:
        broker = make_broker("redis", "one@t")
        key = f"_kombu.binding.{broker.namespace}.pidbox"
        with broker.app.connection_for_write() as connection:
            client = connection.default_channel.client
            client.sadd(key, "no row", "\x06\x16\x06\x16")
            snapshot = take(broker.app)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}
            client.sadd(key, b"\xff\x06\x16\x06\x16\xff.celery.pidbox")
            assert workers_by_field(take(broker.app)) == everywhere("one@t")


def test_known_as_no_worker__a_worker_when_it_answers(make_broker: MakeBroker) -> None:
    broker = make_broker()
    answers = threading.Event()
    node = answer_if(lambda _, method: answers.is_set() or method == "ping")
    with Mailbox(broker, "one@t", Mailbox.answer_jointly), Mailbox(broker, "node@t", node):
        for _ in range(2):
            assert workers_by_field(take(broker.app)) == everywhere("one@t")
        answers.set()
        assert workers_by_field(take(broker.app)) == everywhere("node@t", "one@t")
        answers.clear()
        assert take(broker.app, WINDOW).missing == {"node@t": FIELDS}


class TestRabbitMQ:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Set when a question was published, and has seen what is remembered."""
        asked = threading.Event()
        after_asking = amqp_presence.AmqpPresence.after_asking

        def noted(self: amqp_presence.AmqpPresence) -> None:
            after_asking(self)
            asked.set()

        monkeypatch.setattr(amqp_presence.AmqpPresence, "after_asking", noted)
        return asked

    @pytest.fixture
    def pinged(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Set when every node was pinged, and the gone workers were found."""
        pinged = threading.Event()
        after_ping = amqp_presence.AmqpPresence.after_ping

        def noted(self: amqp_presence.AmqpPresence) -> None:
            after_ping(self)
            pinged.set()

        monkeypatch.setattr(amqp_presence.AmqpPresence, "after_ping", noted)
        return pinged

    def test_before_the_workers_are_up__nothing_is_learnt(self, make_broker: MakeBroker) -> None:
        broker = make_broker("amqp")
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere()
        with Mailbox(broker, "one@t", Mailbox.answer):
            snapshot = take(broker.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert take(broker.app).elapsed < TIMEOUT

    def test_fleet_replaced__found_like_the_first(
        self, make_broker: MakeBroker, pinged: threading.Event
    ) -> None:
        """The new workers may be slower than it takes to find that the old ones are gone."""
        broker = make_broker("amqp")
        with Mailbox(broker, "old@t", Mailbox.answer):
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere("old@t")
        pinged.clear()

        with Mailbox(broker, "new@t", answer_after(pinged)):
            assert workers_by_field(take(broker.app, 2)) == everywhere("new@t")

    def test_first_question_names_a_worker__the_others_are_not_known_yet(
        self, make_broker: MakeBroker, pinged: threading.Event
    ) -> None:
        broker = make_broker("amqp")

        with (
            Mailbox(broker, "one@t", Mailbox.answer),
            Mailbox(broker, "slow@t", answer_after(pinged)),
        ):
            assert workers_by_field(take(broker.app, workers=("one@t",))) == everywhere("one@t")
            pinged.clear()  # It is set if the machine was slow.
            assert workers_by_field(take(broker.app, 2)) == everywhere("one@t", "slow@t")

    def test_worker_learnt_by_another_question__not_awaited(
        self, make_broker: MakeBroker, asked: threading.Event
    ) -> None:
        """It is new, and has not received the question that was asked before."""
        broker = make_broker("amqp")
        may_answer = threading.Event()
        may_answer.set()

        def only_if_named(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if command["destination"]:
                mailbox.answer(command)

        with Mailbox(broker, "one@t", answer_after(may_answer)), ThreadPoolExecutor() as pool:
            take(broker.app, WINDOW)
            may_answer.clear()
            asked.clear()
            first = pool.submit(take, broker.app)
            assert asked.wait(20)
            with Mailbox(broker, "new@t", only_if_named):
                take(broker.app, workers=("new@t",))
                assert connections_for(broker.app).roster.workers() == {"new@t", "one@t"}
                may_answer.set()
                snapshot = first.result()
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert snapshot.missing == {}

    def test_window_of_another_question__does_not_end_its_own(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch, asked: threading.Event
    ) -> None:
        broker = make_broker("amqp")
        other_is_over, looked = threading.Event(), threading.Event()
        patience = amqp_presence.AmqpPresence.patience

        def noted(self: amqp_presence.AmqpPresence) -> float | None:
            seconds = patience(self)
            if other_is_over.is_set():
                looked.set()
            return seconds

        monkeypatch.setattr(amqp_presence.AmqpPresence, "patience", noted)

        with (
            Mailbox(broker, "one@t", Mailbox.answer),
            Mailbox(broker, "slow@t", answer_after(looked)),
            ThreadPoolExecutor() as pool,
        ):
            take(broker.app, workers=("one@t",))  # It is known; whether others are there is not.
            asked.clear()
            first = pool.submit(take, broker.app)
            assert asked.wait(20)
            other = take(broker.app, WINDOW, fields=("stats",))
            assert workers_by_field(other)["stats"] == ["one@t"]
            assert connections_for(broker.app).roster.had_whole_window
            other_is_over.set()
            assert workers_by_field(first.result()) == everywhere("one@t", "slow@t")

    def test_after_a_pause__no_window(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = make_broker("amqp")
        with Mailbox(broker, "one@t", Mailbox.answer):
            take(broker.app, WINDOW)
            monkeypatch.setattr("celery_stats.control.broker.MAX_IDLE", 0.0)
            for _ in range(3):
                snapshot = take(broker.app)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert snapshot.elapsed < TIMEOUT

    @pytest.mark.parametrize("is_kept", [True, False])
    def test_newcomer_too_late_for_one_question__in_the_next(
        self,
        make_broker: MakeBroker,
        monkeypatch: pytest.MonkeyPatch,
        pinged: threading.Event,
        is_kept: bool,
    ) -> None:
        """Its replies are read with the next question, on a connection that is kept or not.

        In the next question it is slow again: it is waited for, and not heard by chance.
        """
        broker = make_broker("amqp")
        may_answer = threading.Event()
        answered_late = threading.Event()

        def newcomer(mailbox: Mailbox, command: dict[str, Any]) -> None:
            assert (pinged if answered_late.is_set() else may_answer).wait(20)
            mailbox.answer(command)
            answered_late.set()

        with Mailbox(broker, "one@t", Mailbox.answer):
            take(broker.app, WINDOW)
            with Mailbox(broker, "new@t", newcomer):
                assert workers_by_field(take(broker.app)) == everywhere("one@t")
                may_answer.set()
                assert answered_late.wait(20)
                (kept,) = connections_for(broker.app)._idle
                sock = kept.connection.connection.sock
                # A reply that was published may still be on its way through the broker.
                wait_until(lambda: select([sock], [], [], 0)[0], what="the late reply")
                if not is_kept:
                    monkeypatch.setattr("celery_stats.control.broker.MAX_IDLE", 0.0)
                pinged.clear()
                assert workers_by_field(take(broker.app)) == everywhere("new@t", "one@t")
                assert (kept in connections_for(broker.app)._idle) is is_kept

    def test_newcomer_heard_late_during_a_question__waited_for_in_it(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch, asked: threading.Event
    ) -> None:
        """It has received the question, because it was there for the one before."""
        broker = make_broker("amqp")
        is_third, heard_late, one_answered = (threading.Event() for _ in range(3))
        hear_late = amqp_presence.AmqpPresence.hear_late

        def noted(self: amqp_presence.AmqpPresence, workers: set[str]) -> None:
            hear_late(self, workers)
            heard_late.set()

        monkeypatch.setattr(amqp_presence.AmqpPresence, "hear_late", noted)

        def one(mailbox: Mailbox, command: dict[str, Any]) -> None:
            is_held = is_third.is_set() and command["method"] != "ping"
            assert not is_held or heard_late.wait(20)
            mailbox.answer_jointly(command)
            if is_held:
                one_answered.set()

        received: list[dict[str, Any]] = []

        def answer_first_and_later_the_rest() -> None:
            if is_third.is_set() and asked.is_set() and received:
                if not heard_late.is_set():
                    new.answer_jointly(received.pop(0))
                    assert heard_late.wait(20)
                elif one_answered.is_set():
                    threading.Event().wait(0.3)  # longer than the grace
                    new.answer_jointly(received.pop(0))

        with Mailbox(broker, "one@t", one):
            take(broker.app, WINDOW)
            with Mailbox(broker, "new@t", lambda _, command: received.append(command)) as new:
                new.on_idle = answer_first_and_later_the_rest
                assert workers_by_field(take(broker.app)) == everywhere("one@t")
                asked.clear()
                is_third.set()
                assert workers_by_field(take(broker.app)) == everywhere("new@t", "one@t")

    def test_gone_after_a_part_of_its_answer__missing_for_the_rest(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker("amqp")

        def answer_and_stop(mailbox: Mailbox, command: dict[str, Any]) -> None:
            mailbox.answer(command)
            if connections_for(broker.app).roster.had_whole_window:
                mailbox.end()

        with Mailbox(broker, "one@t", Mailbox.answer), Mailbox(broker, "half@t", answer_and_stop):
            take(broker.app, WINDOW)
            for node in connections_for(broker.app).roster.nodes.values():
                node.without_app = False
            snapshot = take(broker.app)
        assert workers_by_field(snapshot)["stats"] == ["half@t", "one@t"]
        assert workers_by_field(snapshot)["active"] == ["one@t"]
        assert snapshot.missing == {"half@t": FIELDS[:-1]}

    def test_worker_that_never_completes__no_window_for_the_others(
        self, make_broker: MakeBroker
    ) -> None:
        """It cannot encode one of its replies, and has been asked for it again."""
        broker = make_broker("amqp")
        partial = answer_if(lambda mailbox, method: method != "reserved")
        with Mailbox(broker, "one@t", Mailbox.answer), Mailbox(broker, "part@t", partial):
            for timeout in (1.0, TIMEOUT):
                snapshot = take(broker.app, timeout)
                assert snapshot.missing == {"part@t": ("reserved",)}
                assert workers_by_field(snapshot)["stats"] == ["one@t", "part@t"]
        assert snapshot.elapsed < TIMEOUT

    def test_new_worker_whose_reply_is_lost__found_by_a_ping(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker("amqp")

        def unreadable(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if command["method"] == "stats":
                mailbox.reply(command, b"{", content_type="application/json")
            else:
                mailbox.answer(command)

        with Mailbox(broker, "one@t", Mailbox.answer):
            take(broker.app, WINDOW)
            with Mailbox(broker, "new@t", unreadable):
                # It may have been too late for the first answer.
                snapshot = wait_until(
                    lambda: (s := take(broker.app, 1)).missing and s, what="the new worker"
                )
        assert snapshot.missing == {"new@t": ("stats",)}

    def test_newcomer_a_little_slower_than_slow_workers__heard(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The grace for workers that are not known is a share of the time of the others."""
        broker = make_broker("amqp")
        is_slow, in_grace, never = threading.Event(), threading.Event(), threading.Event()
        patience = amqp_presence.AmqpPresence.patience

        def noted(self: amqp_presence.AmqpPresence) -> float | None:
            seconds = patience(self)
            if seconds is not None:
                in_grace.set()
            return seconds

        def slow(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if is_slow.is_set() and command["method"] != "ping":
                never.wait(2.0)
            mailbox.answer_jointly(command)

        def slower(mailbox: Mailbox, command: dict[str, Any]) -> None:
            assert in_grace.wait(20)
            never.wait(0.1)
            mailbox.answer_jointly(command)

        with Mailbox(broker, "one@t", slow):
            take(broker.app, WINDOW)
            is_slow.set()
            monkeypatch.setattr(amqp_presence.AmqpPresence, "patience", noted)
            with Mailbox(broker, "new@t", slower):
                assert workers_by_field(take(broker.app)) == everywhere("new@t", "one@t")

    def test_worker_has_left__forgotten(self, make_broker: MakeBroker) -> None:
        """Otherwise each question would ask the broker for its mailbox."""
        broker = make_broker("amqp")
        with Mailbox(broker, "one@t", Mailbox.answer_jointly):
            with Mailbox(broker, "left@t", Mailbox.answer_jointly):
                assert workers_by_field(take(broker.app, WINDOW)) == everywhere("left@t", "one@t")
            snapshot = take(broker.app)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}
            assert connections_for(broker.app).roster.workers() == {"one@t"}

    def test_all_are_slow__named_as_missing(self, make_broker: MakeBroker) -> None:
        broker = make_broker("amqp")
        may_answer = threading.Event()
        may_answer.set()
        with Mailbox(broker, "one@t", answer_if(lambda *_: may_answer.is_set())):
            take(broker.app, WINDOW)
            may_answer.clear()
            assert take(broker.app, WINDOW).missing == {"one@t": FIELDS}


def test_file_system__worker_that_reads_again__heard_at_once(make_broker: MakeBroker) -> None:
    broker = make_broker("filesystem", "one@t")
    (worker,) = broker.workers
    worker.freeze()
    assert take(broker.app, 0.5).missing == {"one@t": FIELDS}
    worker.thaw()
    # Its mailbox still holds what it has not read.
    assert workers_by_field(take(broker.app)) == everywhere("one@t")


def test_table_local_to_the_process__never_taken_for_the_whole(make_broker: MakeBroker) -> None:
    broker = make_broker("filesystem", "one@t")
    app = broker.client(broker_transport="tests.local_table:Transport")
    try:
        for _ in range(2):
            snapshot = take(app, 0.5)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.elapsed > 0.5
    finally:
        connections_for(app).close()


def test_table_local_to_the_process_and_a_named_worker_loses_its_reply__asked_again(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("filesystem")
    app = broker.client(broker_transport="tests.local_table:Transport")
    forgetful = answer_if(lambda mailbox, method: method == "ping" or len(mailbox.heard) > 1)
    try:
        with Mailbox(broker, "one@t", forgetful):
            snapshot = take(app, workers=("one@t",))
        assert workers_by_field(snapshot) == everywhere("one@t")
    finally:
        connections_for(app).close()


def test_table_local_to_the_process_and_a_reply_is_lost__asked_again(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("filesystem")
    app = broker.client(broker_transport="tests.local_table:Transport")
    loses_one = answer_if(
        lambda mailbox, method: method != "reserved" or mailbox.heard.count(method) > 1
    )
    try:
        with Mailbox(broker, "one@t", loses_one):
            snapshot = take(app, WINDOW)
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert snapshot.missing == {}
    finally:
        connections_for(app).close()


def test_table_that_cannot_be_read__never_taken_for_empty(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker("filesystem", "one@t")
    after_asking = TablePresence.after_asking

    def fail(*args: Any) -> None:
        raise ValueError("somebody is writing it")

    def unreadable(self: TablePresence) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(type(self.connection.channel), "get_table", fail)
            after_asking(self)

    monkeypatch.setattr(TablePresence, "after_asking", unreadable)
    assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")


@deaf_afterwards
def test_threads_worker_beside_an_odd_task__the_plain_ones_keep_their_arguments(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    broker.fleet("one@t", pool="threads", concurrency=2)
    plain = [broker.send(number, seconds=600, city="Tallinn") for number in (1, 2)]
    wait_until(
        lambda: len(take(broker.app).answers["active"]["one@t"]) == 2,  # type: ignore[index]
        what="two tasks at work",
    )
    broker.send({1, 2}, seconds=600, serializer="pickle")
    inspect = broker.client().control.inspect(limit=1)
    expected = {task["id"]: task for task in inspect.active()["one@t"]}

    def odd_is_reserved() -> Snapshot | None:
        snapshot = take(broker.app)
        return snapshot if "one@t" in snapshot.missing else None

    snapshot = wait_until(odd_is_reserved, what="the odd task among the reserved")
    assert snapshot.missing == {"one@t": ("reserved",)}
    tasks = {task["id"]: task for task in snapshot.answers["active"]["one@t"]}  # type: ignore[index]
    assert sorted(tasks) == sorted(plain)
    for task_id in plain:
        assert tasks[task_id]["args"] == expected[task_id]["args"]
        assert tasks[task_id]["kwargs"] == {"seconds": 600, "city": "Tallinn"}
