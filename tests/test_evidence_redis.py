"""Redis: an answer follows from what came back to this question, whatever was remembered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient

from celery_stats.shapes import FIELDS
from tests.asking import TIMEOUT, everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, RedisServer, Use
from tests.mailbox import Mailbox, answer_if
from tests.processes import wait_until
from tests.test_command import run
from tests.test_evidence import NOT_ADDED_AGAIN, WINDOW, accounted_for, set_clock_ahead

URL = "/api/celery-stats/"

BOTH = everywhere("one@t", "two@t")

only_pong = answer_if(lambda _, method: method == "ping")


def client_of(broker: Broker) -> redis.Redis:
    return redis.Redis.from_url(broker.config["broker_url"], socket_timeout=5)


def flush(broker: Broker) -> None:
    """Take every name from the list, as ``RedisCache.clear()`` does."""
    with client_of(broker) as client:
        client.flushdb()


@contextmanager
def killed_later(broker: Broker, name: str, on_command: Any) -> Iterator[None]:
    """Run a node that leaves its name in the list, as one that is killed does."""
    with client_of(broker) as client:
        with Mailbox(broker, name, on_command):
            key = f"_kombu.binding.{broker.namespace}.pidbox"
            rows = [row for row in client.smembers(key) if name.encode() in row]
            yield
        client.sadd(key, *rows)


def slow(mailbox: Mailbox, command: dict[str, Any]) -> None:
    """Answer after a pause that is longer than any grace."""
    threading.Event().wait(2 * WINDOW)
    mailbox.answer_jointly(command)


@contextmanager
def foreign_subscriber(server: RedisServer) -> Iterator[None]:
    """Listen as a monitoring tool does."""
    with server.client() as client:
        others = client.pubsub_numpat()
        with client.pubsub() as tool:
            tool.psubscribe("*")
            wait_until(lambda: tool.get_message(timeout=1), what="the subscription")
            yield
        wait_until(lambda: client.pubsub_numpat() == others, what="its end")


class TestUnlistedWorker:
    """It lives, and its name has left the list."""

    def test_frozen_during_one_question__present_in_the_next(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        [worker] = broker.fleet("one@t", **NOT_ADDED_AGAIN)
        flush(broker)
        worker.freeze()
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere()
        worker.thaw()
        worker.ready()
        for _ in range(3):
            assert workers_by_field(take(broker.app)) == everywhere("one@t")

    def test_solo_worker_at_work_during_one_question__present_in_the_next(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        [worker] = broker.fleet("solo@t", pool="solo", **NOT_ADDED_AGAIN)
        flush(broker)
        broker.send(seconds=1.5)
        wait_until(lambda: "received" in worker.log.read_text(), what="its task")
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere()
        worker.ready()
        for _ in range(3):
            assert workers_by_field(take(broker.app)) == everywhere("solo@t")

    def test_frozen_beside_another__both_present_in_the_next(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        _, two = broker.fleet("one@t", "two@t", with_app=True, **NOT_ADDED_AGAIN)
        flush(broker)
        two.freeze()
        assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
        two.thaw()
        two.ready()
        for _ in range(4):
            assert workers_by_field(take(broker.app)) == BOTH

    def test_asked_for_by_name_after_its_silence__answers(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        [worker] = broker.fleet("one@t", **NOT_ADDED_AGAIN)
        flush(broker)
        worker.freeze()
        for asked in ((), ("one@t",)):
            take(broker.app, WINDOW, workers=asked)
        worker.thaw()
        worker.ready()
        for asked in (("one@t",), (), ("one@t",)):
            snapshot = take(broker.app, workers=asked)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}

    def test_old_worker_of_its_name_took_the_entry_along__present_after_a_silence(
        self, make_broker: MakeBroker
    ) -> None:
        """As in a rolling restart, where two workers of a name share the entry for a moment."""
        broker = make_broker()
        speaks = threading.Event()
        with Mailbox(broker, "one@t", answer_if(lambda *_: speaks.is_set())):
            with Mailbox(broker, "one@t", Mailbox.answer):
                pass
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere()
            speaks.set()
            for _ in range(3):
                assert workers_by_field(take(broker.app)) == everywhere("one@t")

    def test_flushed_while_a_snapshot_is_taken__present_in_the_next(
        self, make_broker: MakeBroker
    ) -> None:
        """The list of replies goes as well, so nobody is heard in the snapshot itself."""
        broker = make_broker()
        flushed = threading.Event()

        def flush_once(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if not flushed.is_set():
                flush(broker)
                flushed.set()
            mailbox.answer(command)

        def after_it(mailbox: Mailbox, command: dict[str, Any]) -> None:
            assert flushed.wait(20)
            mailbox.answer(command)

        with Mailbox(broker, "one@t", flush_once), Mailbox(broker, "two@t", after_it):
            take(broker.app, WINDOW)
            for _ in range(3):
                assert workers_by_field(take(broker.app)) == BOTH


class TestWhoIsNamed:
    def test_beat_dies_and_a_killed_worker_returns__present_and_not_missing(
        self, make_broker: MakeBroker
    ) -> None:
        """The same count and the same list, and other members."""
        broker = make_broker()
        asked: list[dict[str, Any]] = []

        def once_it_is_pinged(mailbox: Mailbox, command: dict[str, Any]) -> None:
            asked.append(command)
            if command["method"] == "ping":
                while asked:
                    mailbox.answer(asked.pop(0))

        with killed_later(broker, "two@t", Mailbox.answer):
            pass
        with Mailbox(broker, "one@t", Mailbox.answer_jointly):
            with killed_later(broker, "celerybeat@t", only_pong):
                assert take(broker.app).missing == {"two@t": FIELDS}
            with Mailbox(broker, "two@t", once_it_is_pinged):
                snapshot = take(broker.app)
        assert "two@t" not in snapshot.missing
        assert workers_by_field(snapshot) == BOTH

    @pytest.mark.parametrize("node", ["celerybeat@t", "scheduler@t"])
    def test_beat_was_killed__not_named_by_who_knew_it(
        self, make_broker: MakeBroker, node: str
    ) -> None:
        broker = make_broker()
        with Mailbox(broker, "one@t", Mailbox.answer_jointly):
            with killed_later(broker, node, only_pong):
                assert take(broker.app).missing == {}
            for _ in range(3):
                snapshot = take(broker.app)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert snapshot.missing == {}
                assert snapshot.elapsed < TIMEOUT

    def test_beat_was_killed__known_by_its_usual_name_to_a_new_process(
        self, make_broker: MakeBroker
    ) -> None:
        """With another name, nothing tells it from a worker that was killed."""
        broker = make_broker()
        for node in ("celerybeat@t", "scheduler@t"):
            with killed_later(broker, node, only_pong):
                pass
        with Mailbox(broker, "one@t", Mailbox.answer_jointly):
            for _ in range(2):
                assert take(broker.app).missing == {"scheduler@t": FIELDS}

    def test_list_lost_both_and_one_freezes__named_by_who_knew_it(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        _, two = broker.fleet("one@t", "two@t", **NOT_ADDED_AGAIN)
        assert workers_by_field(take(broker.app)) == BOTH
        flush(broker)
        two.freeze()
        for _ in range(3):
            snapshot = take(broker.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {"two@t": FIELDS}
            assert snapshot.silent_subscribers == 0

    def test_list_lost_both_and_one_freezes__a_number_to_who_knew_nobody(
        self, make_broker: MakeBroker, use: Use, api: APIClient, settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": WINDOW}
        broker = use(make_broker())
        _, two = broker.fleet("one@t", "two@t", **NOT_ADDED_AGAIN)
        flush(broker)
        two.freeze()
        snapshot = take(broker.client(), WINDOW)
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 1)
        response = api.get(URL, {"format": "html"})
        assert "Every worker answered" not in response.content.decode()
        assert "Celery-Stats-Missing" not in response
        done = run(broker, "--timeout", str(WINDOW), "--json")
        # It may be another program, so it is said and is no failure.
        assert done.returncode == 0
        assert done.stderr != b""
        done = run(broker, "--timeout", str(WINDOW), "--worker", "two@t")
        assert done.returncode == 1

    def test_listed_worker_is_frozen__named_and_not_counted(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        _, two = broker.fleet("one@t", "two@t", **NOT_ADDED_AGAIN)
        two.freeze()
        for _ in range(2):
            snapshot = take(broker.app, WINDOW)
            assert (snapshot.missing, snapshot.silent_subscribers) == ({"two@t": FIELDS}, 0)

    def test_redis_restarted__known_workers_named_until_they_are_back(
        self, own_redis: RedisServer, alone: Broker
    ) -> None:
        workers = alone.fleet("one@t", "two@t")
        assert workers_by_field(take(alone.app)) == BOTH
        for worker in workers:
            worker.freeze()  # They shall not be back before the first question.
        own_redis.kill()
        server = RedisServer(port=own_redis.port)
        try:
            snapshot = take(alone.app, WINDOW)
            assert snapshot.missing == {"one@t": FIELDS, "two@t": FIELDS}
            for worker in workers:
                worker.thaw()

            def back() -> bool:
                snapshot = take(alone.app, WINDOW)
                assert accounted_for(snapshot) == {"one@t", "two@t"}
                return not snapshot.missing

            wait_until(back, what="both workers")
        finally:
            server.stop()

    def test_foreign_subscriber__counted_while_it_is_there(
        self, own_redis: RedisServer, alone: Broker
    ) -> None:
        """When it has left, nobody is given up earlier because of it."""
        may_answer = threading.Event()

        def slow(mailbox: Mailbox, command: dict[str, Any]) -> None:
            may_answer.wait(2 * WINDOW)
            mailbox.answer_jointly(command)

        with Mailbox(alone, "one@t", slow), own_redis.client() as client:
            may_answer.set()
            with client.pubsub() as tool:
                tool.psubscribe("*")
                wait_until(lambda: tool.get_message(timeout=1), what="the subscription")
                for _ in range(2):
                    snapshot = take(alone.app, WINDOW)
                    assert workers_by_field(snapshot) == everywhere("one@t")
                    assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 1)
            snapshot = take(alone.app)
            assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 0)
            assert snapshot.elapsed < TIMEOUT
            flush(alone)
            may_answer.clear()
            assert workers_by_field(take(alone.app)) == everywhere("one@t")

    def test_foreign_subscriber_leaves_and_a_known_worker_freezes__named(
        self, own_redis: RedisServer, alone: Broker
    ) -> None:
        """As many are silent as before, and it is somebody else."""
        [worker] = alone.fleet("one@t", **NOT_ADDED_AGAIN)
        flush(alone)
        with own_redis.client() as client, client.pubsub() as tool:
            tool.psubscribe("*")
            wait_until(lambda: tool.get_message(timeout=1), what="the subscription")
            snapshot = take(alone.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 1)
        worker.freeze()
        for _ in range(2):
            snapshot = take(alone.app, WINDOW)
            assert (snapshot.missing, snapshot.silent_subscribers) == ({"one@t": FIELDS}, 0)

    def test_foreign_subscriber_leaves_and_a_known_worker_is_slow__waited_for(
        self, own_redis: RedisServer, alone: Broker
    ) -> None:
        """It was heard after the question from which the silence of the other is known."""
        may_answer = threading.Event()
        may_answer.set()

        def slow(mailbox: Mailbox, command: dict[str, Any]) -> None:
            may_answer.wait(2 * WINDOW)
            mailbox.answer_jointly(command)

        with Mailbox(alone, "one@t", slow):
            flush(alone)
            with foreign_subscriber(own_redis):
                for timeout in (WINDOW, TIMEOUT):
                    assert take(alone.app, timeout).silent_subscribers == 1
            may_answer.clear()
            assert workers_by_field(take(alone.app)) == everywhere("one@t")

    def test_foreign_subscriber_has_left_and_a_new_worker_is_slow__waited_for(
        self, own_redis: RedisServer, alone: Broker
    ) -> None:
        with Mailbox(alone, "one@t", Mailbox.answer_jointly):
            with foreign_subscriber(own_redis):
                assert take(alone.app, WINDOW).silent_subscribers == 1
            assert take(alone.app).silent_subscribers == 0
            with Mailbox(alone, "new@t", slow):
                flush(alone)
                assert workers_by_field(take(alone.app)) == everywhere("new@t", "one@t")

    def test_redis_restarted_and_a_worker_stops__not_missing_for_ever(
        self, own_redis: RedisServer, alone: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, two = alone.fleet("one@t", "two@t", **NOT_ADDED_AGAIN)
        assert workers_by_field(take(alone.app)) == BOTH
        own_redis.kill()
        server = RedisServer(port=own_redis.port)
        try:
            wait_until(lambda: workers_by_field(take(alone.app, WINDOW)) == BOTH, what="both")
            two.stop()
            assert take(alone.app, WINDOW).missing == {"two@t": FIELDS}
            set_clock_ahead(monkeypatch, 61.0)
            snapshot = take(alone.app, WINDOW)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}
        finally:
            server.stop()

    def test_beat_is_frozen__not_counted(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        speaks = threading.Event()
        speaks.set()
        beat = answer_if(lambda _, method: method == "ping" and speaks.is_set())
        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly),
            Mailbox(broker, "celerybeat@t", beat),
        ):
            take(broker.app)
            speaks.clear()
            for _ in range(2):
                snapshot = take(broker.app, WINDOW)
                assert workers_by_field(snapshot) == everywhere("one@t")
                assert (snapshot.missing, snapshot.silent_subscribers) == ({}, 0)

    def test_named_worker_was_silent_and_a_new_one_is_slow__waited_for(
        self, make_broker: MakeBroker
    ) -> None:
        """The silence that is remembered is that of nodes without a name."""
        broker = make_broker()
        speaks = threading.Event()
        mute = answer_if(lambda *_: speaks.is_set())
        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly),
            Mailbox(broker, "mute@t", mute),
        ):
            assert take(broker.app, WINDOW).missing == {"mute@t": FIELDS}
            speaks.set()
            with Mailbox(broker, "new@t", slow):
                flush(broker)
                snapshot = take(broker.app)
        assert workers_by_field(snapshot) == everywhere("mute@t", "new@t", "one@t")

    def test_worker_without_the_app_answers_six_times__counted_once_and_a_new_one_waited_for(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        with Mailbox(broker, "one@t", Mailbox.answer):
            assert workers_by_field(take(broker.app)) == everywhere("one@t")
            with Mailbox(broker, "new@t", slow):
                flush(broker)
                assert workers_by_field(take(broker.app)) == everywhere("new@t", "one@t")

    def test_unknown_worker_answers_a_ping_and_nothing_more__missing(
        self, make_broker: MakeBroker
    ) -> None:
        """It may be busy. A node that is no worker goes on to answer pings."""
        broker = make_broker()
        pinged = threading.Event()

        def once(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if command["method"] == "ping" and not pinged.is_set():
                pinged.set()
                mailbox.answer(command)

        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly),
            Mailbox(broker, "new@t", once),
        ):
            snapshot = take(broker.app, 1.0)
            assert pinged.is_set()
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {"new@t": FIELDS}

    def test_worker_that_has_answered_loses_the_ping__not_waited_for(
        self, make_broker: MakeBroker
    ) -> None:
        """The ping finds out that another one, which is still listed, is not there."""
        broker = make_broker()
        pinged = threading.Event()

        def without_pongs(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if command["method"] == "ping":
                pinged.set()
            else:
                mailbox.answer_jointly(command)

        with Mailbox(broker, "one@t", without_pongs):
            with killed_later(broker, "dead@t", Mailbox.answer_jointly):
                pass
            snapshot = take(broker.app)
        assert pinged.is_set()
        assert workers_by_field(snapshot) == everywhere("one@t")
        assert snapshot.elapsed < TIMEOUT

    def test_reply_cannot_be_read_and_another_worker_is_slow__waited_for(
        self, make_broker: MakeBroker
    ) -> None:
        """Whose reply that is has answered readably too, and counts once."""
        broker = make_broker()

        def partly(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if command["method"] == "active":
                json = {"content_type": "application/json", "content_encoding": "utf-8"}
                mailbox.reply(command, b"{", **json)
            else:
                mailbox.answer(command)

        with Mailbox(broker, "one@t", partly):
            # Then it is known to be without the app, and asked everything at once.
            assert take(broker.app, WINDOW).missing == {"one@t": ("active",)}
            with Mailbox(broker, "slow@t", slow):
                snapshot = take(broker.app)
        assert workers_by_field(snapshot)["stats"] == ["one@t", "slow@t"]
        assert snapshot.missing == {"one@t": ("active",)}

    def test_node_sends_several_replies_that_cannot_be_read__a_slow_worker_is_waited_for(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()

        def hostile(mailbox: Mailbox, command: dict[str, Any]) -> None:
            json = {"content_type": "application/json", "content_encoding": "utf-8"}
            for _ in range(2 * (command["method"] != "ping")):
                mailbox.reply(command, b"{", **json)
            mailbox.answer_jointly(command)

        with Mailbox(broker, "one@t", hostile), Mailbox(broker, "slow@t", slow):
            snapshot = take(broker.app)
        assert workers_by_field(snapshot) == everywhere("one@t", "slow@t")
        assert snapshot.missing == {}
