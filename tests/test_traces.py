"""The look at the result backend and into the queues, on real brokers and backends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from kombu import Connection, Exchange, Queue

from celery_stats.control import limits, results
from celery_stats.control import look_through as module
from celery_stats.control.look_through import Extent, Place, look_through
from celery_stats.control.question import Options, Question
from celery_stats.control.results import Backend, ResultRequest
from celery_stats.control.snapshot import take_snapshot
from celery_stats.control.traces import find_traces
from tests import backends
from tests.brokers import Broker, MakeBroker, RedisServer
from tests.processes import wait_until

# Queues


def send(broker: Broker, number: int = 1, queue: Any = "", **options: Any) -> list[str]:
    queue = queue or broker.queues[0]
    return [
        str(broker.app.send_task("tests.nap", queue=queue, **options).id) for _ in range(number)
    ]


def look(broker: Broker, *task_ids: str, queues: Any = ()) -> tuple[dict[str, Place], Extent]:
    ends = time.monotonic() + 10
    with broker.app.connection_for_write() as connection:
        places, extent = look_through(connection, queues or broker.queues, task_ids, ends)
        return dict(places), extent


@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_look_through__how_many_are_before_it_and_nothing_taken(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind)
    ids = send(broker, 30)
    (other,) = send(broker, queue=f"{broker.namespace}.other")
    queue = broker.queues[0]
    queues = [*broker.queues, f"{broker.namespace}.other", "none"]
    for _ in range(2):
        found = look(broker, ids[0], ids[12], other, "nope", queues=queues)
        assert found == (
            {ids[0]: Place(queue, 0), ids[12]: Place(queue, 12), other: Place(queues[1], 0)},
            Extent.ALL,
        )
    if kind == "redis":
        with broker.app.connection_for_write() as connection:
            client = connection.default_channel.client
            assert (client.llen(queue), client.keys("unacked*")) == (30, [])


def test_look_through__rabbitmq__does_not_let_one_look(make_broker: MakeBroker) -> None:
    broker = make_broker("amqp")
    (task_id,) = send(broker)
    assert look(broker, task_id) == ({}, Extent.NONE)


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "shop:", "sep": ":"}], ids=str)
def test_look_through__priorities_on_redis__those_that_are_delivered_first_count(
    make_broker: MakeBroker, options: dict[str, Any]
) -> None:
    broker = make_broker(broker_transport_options=options)
    first_low, low = send(broker, 2, priority=9)
    high = send(broker, 3, priority=0)
    assert look(broker, low, high[2]) == (
        {low: Place(broker.queues[0], 4), high[2]: Place(broker.queues[0], 2)},
        Extent.ALL,
    )
    assert look(broker, first_low)[0] == {first_low: Place(broker.queues[0], 3)}


def test_look_through__delivered_and_not_acknowledged__found(make_broker: MakeBroker) -> None:
    broker = make_broker()
    (task_id,) = send(broker)
    with Connection(broker.url) as consumer:
        assert consumer.default_channel.basic_get(broker.queues[0], no_ack=False)
        assert look(broker, task_id) == (
            {task_id: Place(broker.queues[0], None)},
            Extent.ALL,
        )


def test_look_through__delivered_through_an_exchange__the_queue_is_not_known(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    queue = Queue("high", Exchange(f"{broker.namespace}.shop", "topic"), routing_key="shop.#")
    (task_id,) = send(broker, queue=queue, routing_key="shop.mail")
    with Connection(broker.url) as consumer:
        assert consumer.default_channel.basic_get("high", no_ack=False)
        assert look(broker, task_id, queues=["high"]) == ({task_id: Place("", None)}, Extent.ALL)


def test_look_through__odd_messages__passed_over(make_broker: MakeBroker) -> None:
    broker = make_broker()
    (task_id,) = send(broker)
    (other,) = send(broker, queue="x")
    odd = ["", "[]", "7", task_id, f'["{task_id}"]', f'{{"properties": "{task_id}"}}', b"\xff"]
    with broker.app.connection_for_write() as connection:
        client = connection.default_channel.client
        client.execute_command("RPUSH", broker.queues[0], *odd)
        client.execute_command("HSET", "unacked", "a", task_id, "b", f'["{task_id}"]')
        message = client.rpop("x").decode()
        client.execute_command("HSET", "unacked", "c", f'[{message}, "", "\\ud800"]')
    assert look(broker, task_id, other)[0] == {
        task_id: Place(broker.queues[0], len(odd)),
        other: Place("?", None),
    }


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_MESSAGES", 10), ("MAX_BYTES", 4000)], ids=["messages", "bytes"]
)
@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_look_through__more_than_the_limit__in_part(
    make_broker: MakeBroker, kind: str, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    broker = make_broker(kind)
    send(broker, 20)
    assert look(broker, "nope")[1] is Extent.ALL
    monkeypatch.setattr(module, limit, value)
    assert look(broker, "nope")[1] is Extent.PART


@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_look_through__message_that_is_too_large__in_part(
    make_broker: MakeBroker, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PAYLOAD", 100_000)
    monkeypatch.setattr(module, "MAX_REPLY", 100_000)
    broker = make_broker(kind)
    question = Question(task_ids=("nope",), look_up=("nope",), queues=True)
    for size, extent in ((50_000, Extent.ALL), (80_000, Extent.PART)):
        send(broker, args=("x" * size,))
        snapshot = take_snapshot(question, Options(broker.app, timeout=0.2, deadline=4), 4)
        assert snapshot.traces is not None
        assert snapshot.traces.extent is extent


def test_look_through__message_that_holds_too_much__not_decoded(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_REPLY_CONTAINERS", 1000)
    broker = make_broker()
    (task_id,) = send(broker)
    with broker.app.connection_for_write() as connection:
        client = connection.default_channel.client
        message = client.rpop(broker.queues[0]).decode()
        client.lpush(broker.queues[0], f'{message[:-1]}, "x": [{"[]," * 1000}1]}}')
    assert look(broker, task_id)[0] == {}


def test_look_through__no_time_left__in_part(make_broker: MakeBroker) -> None:
    broker = make_broker()
    send(broker)
    with broker.app.connection_for_write() as connection:
        assert look_through(connection, broker.queues, ["nope"], 0.0) == ({}, Extent.PART)


def test_look_through__redis_user_without_the_right__in_part_and_logged_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = f"theirs-{uuid4()}"
    own_redis.client().acl_setuser(
        "reader", enabled=True, passwords=["+secret"], keys=["mine*"], categories=["+@all"]
    )
    broker = Broker("redis", f"redis://reader:secret@127.0.0.1:{own_redis.port}/0")
    try:
        for _ in range(2):
            assert look(broker, "nope", queues=[queue])[1] is Extent.PART
    finally:
        broker.close()
    said = [r.getMessage() for r in caplog.records if queue in r.getMessage()]
    assert said[0].startswith(f"The broker refused LRANGE of '{queue}': NoPermissionError")


# The result backend


def ask(broker: Broker, *task_ids: str, seconds: float = 10.0, **config: Any) -> ResultRequest:
    request = ResultRequest(broker.client(**config), task_ids)
    request.start()
    request.wait(seconds)
    return request


@pytest.fixture
def stored(own_redis: RedisServer, make_broker: MakeBroker) -> Broker:
    """A place on a Redis of its own, which is the result backend as well."""
    url = f"redis://127.0.0.1:{own_redis.port}/0"
    return make_broker(result_backend=url, result_accept_content=["json"])


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_results__state_and_time_and_nothing_else(stored: Broker) -> None:
    before = datetime.now(timezone.utc)
    backend = stored.app.backend
    backend.store_result("done", {"password": "s3cret"}, "SUCCESS")
    backend.store_result("failed", ValueError("s3cret"), "FAILURE", traceback="s3cret")
    backend.store_result("again", ValueError("s3cret"), "RETRY")
    backend.store_result("begun", {"pid": 7}, "STARTED")
    backend.store_result("own", {}, "HALF_DONE")
    backend.store_result("odd", {}, "s3cret: a text")
    request = ask(stored, "done", "failed", "again", "begun", "own", "odd", "nope")
    assert request.backend is Backend.ANSWERED
    assert {task_id: result.state for task_id, result in request.results.items()} == {
        "done": "SUCCESS",
        "failed": "FAILURE",
        "again": "RETRY",
        "begun": "STARTED",
        "own": "HALF_DONE",
    }
    moments = [request.results[task_id].at for task_id in ("done", "failed")]
    assert all(moment and before <= moment <= datetime.now(timezone.utc) for moment in moments)
    assert request.results["begun"].at is None
    assert "s3cret" not in repr(request)


def test_results__no_connection_is_left(stored: Broker, own_redis: RedisServer) -> None:
    client = own_redis.client()
    before = len(client.client_list())
    for _ in range(3):
        assert ask(stored, "nope").backend is Backend.ANSWERED
    assert len(client.client_list()) == before


def test_results__more_than_is_read__failed_and_those_before_it_known(
    stored: Broker, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("done", 10), ("large", 2000)):
        said = f'{{"status": "SUCCESS", "result": "{"x" * size}"}}'
        own_redis.client().set(f"celery-task-meta-{name}", said)
    monkeypatch.setattr(limits, "MAX_PAYLOAD", 1000)
    request = ask(stored, "done", "large")
    assert request.backend is Backend.FAILED
    assert list(request.results) == ["done"]


@pytest.mark.parametrize(
    ("url", "backend"),
    [(None, Backend.NONE), ("disabled://", Backend.NONE), ("rpc://", Backend.PRIVATE)],
)
def test_results__nobody_to_ask__said(
    make_broker: MakeBroker, url: str | None, backend: Backend
) -> None:
    assert ask(make_broker(), "x", result_backend=url).backend is backend


@pytest.mark.parametrize("url", ["redis://:s3cret@127.0.0.1:1/0", "nonsense://s3cret"])
def test_results__backend_fails__said_and_logged_without_the_url(
    make_broker: MakeBroker, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(make_broker(), "x", result_backend=url).backend is Backend.FAILED
    assert "The result backend failed: " in caplog.text
    assert "s3cret" not in caplog.text


def test_results__redis_frozen__the_snapshot_ends_in_time_with_the_rest(
    stored: Broker, own_redis: RedisServer
) -> None:
    stored.fleet("one@h")
    own_redis.freeze()
    try:
        question = Question(task_ids=("x",), look_up=("x",), queues=True)
        began = time.monotonic()
        snapshot = take_snapshot(question, Options(stored.app, timeout=2, deadline=4), 4)
        assert time.monotonic() - began < 5
    finally:
        own_redis.thaw()
    assert list(snapshot.answers["stats"] or ()) == ["one@h"]
    assert snapshot.traces is not None
    assert (snapshot.traces.backend, snapshot.traces.extent) == (Backend.LATE, Extent.ALL)


@pytest.fixture
def hanging() -> Iterator[dict[str, Any]]:
    backends.go_on.clear()
    yield {"result_backend": "tests.backends.Hanging"}
    backends.go_on.set()
    wait_until(lambda: not any(thread.is_alive() for thread in results._threads))


def test_results__database_does_not_answer__late_and_few_threads(
    make_broker: MakeBroker, hanging: dict[str, Any]
) -> None:
    broker = make_broker()
    requests = [ask(broker, "x", seconds=0.05, **hanging) for _ in range(6)]
    assert {request.backend for request in requests} == {Backend.LATE}
    assert sum(thread.is_alive() for thread in results._threads) == 4


def test_results__database_does_not_answer__the_queues_are_looked_through_meanwhile(
    make_broker: MakeBroker, hanging: dict[str, Any]
) -> None:
    broker = make_broker("redis", **hanging)
    [task_id] = send(broker)
    with broker.app.connection_for_write() as connection:
        ends = time.monotonic() + 1
        traces = find_traces(broker.app, connection, broker.queues, [task_id], ends=ends)
    assert traces.backend is Backend.LATE
    assert traces.places == {task_id: Place(broker.queues[0], 0)}


def test_results__answered_after_the_end__not_in_the_answer(
    make_broker: MakeBroker, hanging: dict[str, Any]
) -> None:
    """Others may be reading it."""
    app = make_broker(**hanging).app
    with app.connection_for_write() as connection:
        traces = find_traces(app, connection, (), ("x",), ends=time.monotonic())
    backends.go_on.set()
    wait_until(lambda: not any(thread.is_alive() for thread in results._threads))
    assert (traces.backend, traces.results) == (Backend.LATE, {})


def test_results__more_questions_than_threads_one_after_the_other__all_asked(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    requests = [ask(broker, "x", result_backend=None) for _ in range(6)]
    assert [request.backend for request in requests] == [Backend.NONE] * 6


def test_results__another_question_begins_meanwhile__both_asked(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker()
    others: list[ResultRequest] = []

    class Thread(threading.Thread):
        """One that runs. When somebody looks at it for the first time, another question begins."""

        is_seen = False

        def is_alive(self) -> bool:
            if not self.is_seen:
                self.is_seen = True
                others.append(ask(broker, "x", result_backend=None))
            return True

    monkeypatch.setattr(results, "_threads", {Thread()})
    requests = [ask(broker, "x", result_backend=None), *others]
    assert [request.backend for request in requests] == [Backend.NONE] * 2


def test_results__connection_of_django__closed_in_the_thread(
    make_broker: MakeBroker,
    django_db_blocker: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = {**connections.settings["default"], "NAME": str(tmp_path / "results")}
    monkeypatch.setitem(connections.settings, "results", database)
    backends.opened.clear()
    with django_db_blocker.unblock():
        request = ask(make_broker(), "x", result_backend="tests.backends.InDatabase")
    assert request.results["x"].state == "SUCCESS"
    (connection,) = backends.opened
    assert connection.connection is None


def test_take_snapshot__known_to_a_worker_or_not_looked_up__no_traces(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("redis", "one@h")
    running = broker.send(seconds=60)
    options = Options(broker.app, timeout=2, deadline=4)

    def snapshot(*task_ids: str, **asked: Any) -> Any:
        return take_snapshot(Question(task_ids=task_ids, **asked), options, 4)

    wait_until(lambda: snapshot(running).answers["query_task"]["one@h"])
    assert snapshot(running, look_up=(running,)).traces is None
    assert snapshot("nope").traces is None
    assert snapshot("nope", running, look_up=("nope",), queues=True).traces.extent is Extent.ALL
