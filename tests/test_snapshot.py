"""One round trip with nobody lost: real workers on every kind of broker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import celery
import pytest
from kombu.utils.uuid import uuid

from celery_stats.control.broker import connections_for
from celery_stats.control.snapshot import Snapshot
from celery_stats.shapes import FIELDS
from tests.asking import TIMEOUT, everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, RedisServer, deaf_afterwards
from tests.comparison import without_what_changes
from tests.conftest import KINDS
from tests.mailbox import Mailbox, answer_if
from tests.network import Proxy
from tests.processes import ROOT, run_python, wait_until


def busy(broker: Broker, *workers: str) -> dict[str, list[str]]:
    """Start workers and give them something under every key; return ids by key."""
    broker.fleet(*workers)
    count = len(workers)
    ids = {"revoked": [uuid()], "scheduled": [broker.send(countdown=3600) for _ in workers]}
    broker.app.control.revoke(ids["revoked"])
    # One runs and four wait on each, whoever takes the first.
    naps = [broker.send(seconds=600, password="x") for _ in range(5 * count)]

    def settled() -> bool:
        answers = take(broker.app).answers
        held = {
            name: [t for tasks in (answers[name] or {}).values() for t in tasks] for name in FIELDS
        }
        ids["active"] = [task["id"] for task in held["active"]]
        ids["reserved"] = [task["id"] for task in held["reserved"]]
        return (
            sorted(ids["active"] + ids["reserved"]) == sorted(naps)
            and len(ids["active"]) == len(held["scheduled"]) == len(held["revoked"]) == count
        )

    wait_until(settled, what="content under every key")
    return ids


@pytest.mark.parametrize("kind", KINDS)
class TestAnswers:
    def test_busy_workers__as_six_inspect_calls(self, make_broker: MakeBroker, kind: str) -> None:
        broker = make_broker(kind)
        ids = busy(broker, "one@t", "two@t")
        asked = (ids["active"][0], ids["reserved"][0], ids["scheduled"][0], uuid())
        snapshot = take(broker.app, task_ids=asked)
        inspect = broker.client().control.inspect()
        expected = {
            name: getattr(inspect, name)(*(asked if name == "query_task" else ()))
            for name in FIELDS
        }
        assert workers_by_field(snapshot) == everywhere("one@t", "two@t")
        assert without_what_changes(dict(snapshot.answers)) == without_what_changes(expected)
        assert snapshot.missing == {}

        found = {
            k: v[0]
            for reply in snapshot.answers["query_task"].values()  # type: ignore[union-attr]
            for k, v in reply.items()
        }
        states = ["active", "reserved", "scheduled"]
        if celery.VERSION < (5, 7):
            states.pop()  # query_task did not know what is held until an ETA
        assert found == dict(zip(asked, states, strict=False))

    def test_two_of_six_fields__the_others_not_asked(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind, "one@t")
        with Mailbox(broker, "spy@t", Mailbox.answer) as spy:
            snapshot = take(broker.app, fields=("revoked", "stats"))
        assert [name for name in FIELDS if snapshot.answers[name]] == ["revoked", "stats"]
        assert sorted(spy.heard) == ["revoked", "stats"]

    def test_named_workers__only_they_answer_and_the_unknown_is_missing(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind, "one@t", "two@t")
        snapshot = take(broker.app, workers=("two@t", "nobody@t"))
        assert workers_by_field(snapshot) == everywhere("two@t")
        assert snapshot.missing == {"nobody@t": FIELDS}
        assert snapshot.elapsed < TIMEOUT


@pytest.mark.parametrize("kind", KINDS)
class TestWhoIsThere:
    def test_worker_started_between_two__in_the_next(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind, "one@t")
        assert workers_by_field(take(broker.app, 1)) == everywhere("one@t")
        broker.fleet("two@t")
        if kind == "amqp":  # A new worker that is slow is only found by its late reply.
            wait_until(lambda: "two@t" in workers_by_field(take(broker.app))["stats"])
        for _ in range(2):
            assert workers_by_field(take(broker.app)) == everywhere("one@t", "two@t")

    def test_worker_stopped__gone_at_once_and_not_missing(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)
        workers = broker.fleet("one@t", "two@t", "three@t")
        assert workers_by_field(take(broker.app, 1)) == everywhere("one@t", "three@t", "two@t")
        workers[1].stop()
        snapshot = take(broker.app)
        assert workers_by_field(snapshot) == everywhere("one@t", "three@t")
        assert snapshot.missing == {}
        assert snapshot.elapsed < TIMEOUT

    def test_worker_killed__named_while_listed_and_not_waited_for(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)
        workers = broker.fleet("one@t", "two@t")
        assert workers_by_field(take(broker.app, 1)) == everywhere("one@t", "two@t")
        workers[1].kill()
        if kind == "filesystem":  # which cannot tell the dead from the silent
            assert take(broker.app, 0.5).missing == {"two@t": FIELDS}
        for _ in range(3):
            snapshot = take(broker.app)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.elapsed < TIMEOUT
            # RabbitMQ forgets a mailbox with its connection; the others list it on.
            assert snapshot.missing == ({} if kind == "amqp" else {"two@t": FIELDS})

    def test_worker_frozen__named_then_back(self, make_broker: MakeBroker, kind: str) -> None:
        broker = make_broker(kind)
        workers = broker.fleet("one@t", "two@t")
        assert workers_by_field(take(broker.app, 1)) == everywhere("one@t", "two@t")
        workers[1].freeze()
        for _ in range(2):
            snapshot = take(broker.app, 0.5)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {"two@t": FIELDS}
        # The commands that it finds on waking up are answered without this id.
        revoked = uuid()
        broker.app.control.revoke(revoked, reply=True, timeout=10, limit=1)
        workers[1].thaw()

        def back() -> Snapshot | None:
            snapshot = take(broker.app, 1)
            assert workers_by_field(snapshot)["stats"][0] == "one@t"
            return None if snapshot.missing else snapshot

        snapshot = wait_until(back, what="the thawed worker")
        assert workers_by_field(snapshot) == everywhere("one@t", "two@t")
        assert snapshot.answers["revoked"] == {"one@t": [revoked], "two@t": [revoked]}

    def test_solo_worker_at_work__named_then_back(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = make_broker(kind)
        with Mailbox(broker, "one@t", Mailbox.answer):
            broker.fleet("solo@t", pool="solo")
            assert workers_by_field(take(broker.app, 1)) == everywhere("one@t", "solo@t")
            broker.send(seconds=3)
            snapshot = wait_until(
                # It may have begun between two answers.
                lambda: (s := take(broker.app, 0.5)).missing == {"solo@t": FIELDS} and s,
                what="the busy solo worker",
            )
            assert workers_by_field(snapshot) == everywhere("one@t")
            wait_until(lambda: not take(broker.app, 0.5).missing, what="its return")


def test_nobody_lost__many_snapshots_of_twenty(make_broker: MakeBroker) -> None:
    broker = make_broker()
    with simulated(broker, 20):
        for _ in range(30):
            snapshot = take(broker.app)
            assert {len(v) for v in workers_by_field(snapshot).values()} == {20}
            assert snapshot.missing == {}


def test_redis_flushed__everybody_still_there(make_broker: MakeBroker) -> None:
    broker = make_broker("redis", "one@t", "two@t")
    assert take(broker.app).missing == {}
    with broker.app.connection_for_write() as connection:
        connection.default_channel.client.flushdb()
    snapshot = take(broker.app)
    assert workers_by_field(snapshot) == everywhere("one@t", "two@t")


@deaf_afterwards
@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_cannot_travel__as_reprs_and_nothing_else_lost(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind, "one@t", "two@t")
    assert workers_by_field(take(broker.app, 1)) == everywhere("one@t", "two@t")
    broker.send({1, 2}, seconds=600, serializer="pickle")

    def answered() -> Snapshot | None:
        snapshot = take(broker.app, 1)
        return snapshot if any((snapshot.answers["active"] or {}).values()) else None

    snapshot = wait_until(answered, what="the odd task at work")
    assert workers_by_field(snapshot) == everywhere("one@t", "two@t")
    assert snapshot.missing == {}
    [task] = [t for tasks in snapshot.answers["active"].values() for t in tasks]  # type: ignore[union-attr]
    assert "{1, 2}" in task["args"]


@pytest.mark.parametrize(("lost", "owed"), [(1, ()), (6, ("active",))])
def test_worker_that_loses_an_answer__asked_again_for_it_alone(
    make_broker: MakeBroker, lost: int, owed: tuple[str, ...]
) -> None:
    forgetful = answer_if(lambda me, name: name != "active" or me.heard.count(name) > lost)
    broker = make_broker("redis", "one@t")
    with Mailbox(broker, "forgetful@t", forgetful) as mailbox:
        snapshot = take(broker.app, 1)
    assert snapshot.missing == ({"forgetful@t": owed} if owed else {})
    assert workers_by_field(snapshot) == {
        **everywhere("forgetful@t", "one@t"),
        "active": ["one@t"] if owed else ["forgetful@t", "one@t"],
    }
    assert sorted({*mailbox.heard}) == sorted(FIELDS)
    assert mailbox.heard.count("active") == (6 if owed else 2)


def test_two_workers_of_one_name__one_of_them_and_one_warning(
    make_broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker("redis", "twin@t", "twin@t")
    for _ in range(2):
        assert workers_by_field(take(broker.app, 1)) == everywhere("twin@t")
    assert sum("twin@t" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_many_snapshots__leave_nothing_behind(make_broker: MakeBroker, kind: str) -> None:
    broker = make_broker(kind, "one@t")

    def traces() -> dict[str, Any]:
        found: dict[str, Any] = {
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "threads": threading.active_count(),
        }
        if kind == "redis":
            with broker.app.connection_for_write() as connection:
                client = connection.default_channel.client
                found["keys"] = sorted(client.keys())
        elif kind == "filesystem":
            found["files"] = sorted(p.name for p in broker.folder.rglob("*"))
        return found

    for _ in range(10):
        take(broker.app, 1)
    before = traces()
    for _ in range(50):
        take(broker.app, 1)
    after = traces()
    for counted in ("descriptors", "threads"):  # other tests' may still be going
        assert after.pop(counted) <= before.pop(counted)
    assert after == before


def test_snapshot__six_messages_and_one_reply_queue(make_broker: MakeBroker) -> None:
    broker = make_broker()
    with (
        Mailbox(broker, "spy@t", Mailbox.answer) as spy,
        broker.app.connection_for_write() as connection,
    ):
        take(broker.app)  # a new connection refreshes its bindings, once
        spy.heard.clear()
        client = connection.default_channel.client
        before = client.info("commandstats")
        take(broker.app)
        after = client.info("commandstats")
    assert sorted(spy.heard) == sorted(FIELDS)
    calls = {
        name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after
    }
    # Six commands, and the empty payloads that count the subscribers, before and after.
    assert calls["cmdstat_publish"] == 8
    assert calls["cmdstat_sadd"] == 1  # the reply queue's binding


class TestConnections:
    @pytest.mark.parametrize("kind", ["redis", "amqp"])
    def test_connection_cut__the_next_snapshot_is_whole(
        self, make_broker: MakeBroker, kind: str, redis_server: RedisServer
    ) -> None:
        broker = make_broker(kind, "one@t")
        port = redis_server.port if kind == "redis" else 5672
        proxy = Proxy(port)
        try:
            app = broker.client(broker_url=broker.url.replace(f":{port}", f":{proxy.port}"))
            assert workers_by_field(take(app, 1)) == everywhere("one@t")
            proxy.cut()
            assert workers_by_field(take(app, 1)) == everywhere("one@t")
        finally:
            connections_for(app).close()
            proxy.close()

    def test_redis_restarted__the_next_snapshot_is_whole(
        self, own_redis: RedisServer, make_broker: MakeBroker
    ) -> None:
        url = f"redis://127.0.0.1:{own_redis.port}/1"
        broker = make_broker("redis", "one@t", broker_url=url)
        assert workers_by_field(take(broker.app)) == everywhere("one@t")
        own_redis.stop()
        server = RedisServer(port=own_redis.port)
        try:
            take(broker.app, 0.2)
            wait_until(
                lambda: workers_by_field(take(broker.app)) == everywhere("one@t"), seconds=30
            )
        finally:
            server.stop()

    def test_several_threads_at_once__all_whole(self, fleet: Broker) -> None:
        found: list[Snapshot] = []
        take(fleet.app, 1)
        threads = [
            threading.Thread(target=lambda: found.append(take(fleet.app))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [workers_by_field(s) for s in found] == [everywhere("one@fleet", "two@fleet")] * 8

    def test_after_a_fork__parent_and_child_are_whole(self, fleet: Broker) -> None:
        take(fleet.app, 1)
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(Exception):
                whole = all(
                    workers_by_field(take(fleet.app)) == everywhere("one@fleet", "two@fleet")
                    for _ in range(3)
                )
                status = 0 if whole else 2
            os._exit(status)
        for _ in range(3):
            assert workers_by_field(take(fleet.app)) == everywhere("one@fleet", "two@fleet")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_under_gevent__all_whole(self, make_broker: MakeBroker) -> None:
        pytest.importorskip("gevent")
        broker = make_broker("redis", "one@t", "two@t")
        code = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import gevent\n"
            "from celery_stats.control.question import *\n"
            "from celery_stats.control.snapshot import *\n"
            "from tests.celery_app import app\n"
            "def take(): return take_snapshot(Question(), Options(app, 4, 20), 20)\n"
            "jobs = [gevent.spawn(take) for _ in range(8)]\n"
            "gevent.joinall(jobs)\n"
            "print(sorted({(len(j.get().answers['stats']), j.get().elapsed < 4)"
            " for j in jobs}))\n"
        )
        done = run_python(code, CELERY_STATS_TEST_CONFIG=broker.config_json)
        assert done.stdout == "[(2, True)]\n", done.stderr


@contextmanager
def simulated(broker: Broker, count: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.simulated", broker.config_json, str(count), "w"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.terminate()
        process.communicate()
