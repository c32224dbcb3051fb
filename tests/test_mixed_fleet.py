"""Workers of several Celery versions on one broker; ``nox`` makes their environments."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import celery
import pytest
from rest_framework.test import APIClient

from celery_stats.control.snapshot import Snapshot
from celery_stats.shapes import FIELDS
from tests.asking import everywhere, take
from tests.brokers import Broker, MakeBroker, Use, Worker
from tests.celery_app import ODD, ODD_AS_JSON
from tests.comparison import without_what_changes
from tests.conftest import KINDS, place
from tests.processes import wait_until
from tests.published import load, problems

URL = "/api/celery-stats/"
PASSWORD = "hunter2"

#: Celery version to a Python that has it and, but for 5.3, this app.
PYTHONS: dict[str, str] = json.loads(os.environ.get("CELERY_STATS_TEST_WORKERS", "{}"))
#: The versions that the app supports. Workers of the others are started without it.
SUPPORTED = [version for version in PYTHONS if version != "5.3"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not PYTHONS, reason="CELERY_STATS_TEST_WORKERS names no Pythons"),
]


def start(broker: Broker, version: str, *, with_app: bool) -> Worker:
    """Start a worker with a queue of its own."""
    name = f"celery-{version}@{'app' if with_app else 'plain'}"
    broker.queues.append(queue_of(broker, name))
    worker = Worker(
        broker,
        name,
        pool="prefork",
        concurrency=1,
        python=PYTHONS[version],
        with_app=with_app,
        config={"task_default_queue": queue_of(broker, name)},
    )
    broker.workers.append(worker)
    return worker


def queue_of(broker: Broker, worker: str) -> str:
    return f"{broker.namespace}.{worker.replace('@', '.')}"


def send_three(broker: Broker, *args: Any, **kwargs: Any) -> list[str]:
    """Send each worker a task that it runs, one that waits and one with an ETA; return ids."""
    return [
        broker.app.send_task(
            "tests.nap",
            args,
            {"seconds": 600, **kwargs},
            queue=queue_of(broker, worker.name),
            serializer="pickle",
            countdown=countdown,
        ).id
        for worker in broker.workers
        for countdown in (3600, None, None)
    ]


def are_at_work(answers: Mapping[str, Any]) -> bool:
    """Whether each worker shows its three tasks."""
    lists = [answers[field] or {} for field in ("active", "scheduled", "reserved")]
    return all(len(tasks) == 1 for each in lists for tasks in each.values())


def names(broker: Broker) -> list[str]:
    return sorted(worker.name for worker in broker.workers)


def answered(answers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return who stands under each key."""
    return {field: sorted(answers[field] or ()) for field in FIELDS}


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Workers of every version, without the app and, where it supports the version, with it."""
    broker = place(request.param, request)
    if broker.kind != "filesystem":
        # Up to 5.6 workers send the URLs that they would fail over to with their passwords.
        spare = f"{broker.url};{broker.url.split(':')[0]}://:{PASSWORD}@127.0.0.1:1//"
        broker.config["broker_url"] = spare
    try:
        for version in PYTHONS:
            start(broker, version, with_app=False)
        for version in SUPPORTED:
            start(broker, version, with_app=True)
        for worker in broker.workers:
            worker.ready()
        yield broker
    finally:
        broker.close()


def expect_as_inspect(broker: Broker, api: APIClient) -> None:
    """Compare an answer with six ``inspect()`` calls, but for what is masked in it."""
    response = api.get(URL)
    assert "Celery-Stats-Missing" not in response
    answer = response.json()
    assert answered(answer) == everywhere(*names(broker))
    inspect = broker.client().control.inspect(timeout=4, limit=len(broker.workers))
    for field in FIELDS:
        told = json.loads(json.dumps(getattr(inspect, field)()).replace(PASSWORD, "*" * 20))
        if field == "stats":
            for stats in (*told.values(), *answer[field].values()):
                del stats["broker"]
        assert without_what_changes(answer[field]) == without_what_changes(told)


@pytest.mark.parametrize("broker", KINDS, indirect=True)
def test_every_version__answers_everything_as_to_inspect(
    broker: Broker, use: Use, api: APIClient, settings: Any
) -> None:
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 4.0}
    use(broker)
    expect_as_inspect(broker, api)

    broker.app.control.revoke(["revoked"])
    task_ids = send_three(broker, password=PASSWORD)

    def settled() -> Any:
        answer = api.get(URL, {"task_id": task_ids}).json()
        return answer if are_at_work(answer) else None

    answer = wait_until(settled, seconds=30, what="the tasks of every worker")
    assert answered(answer) == everywhere(*names(broker))
    assert PASSWORD not in json.dumps(answer)
    assert problems(answer, load()) == []
    expect_as_inspect(broker, api)


# Over the file system kombu logs "No hostname was supplied" for each connection, whoever asks.
@pytest.mark.parametrize("broker", ["redis", "amqp"], indirect=True)
def test_one_hundred_snapshots__not_one_more_line_logged(broker: Broker) -> None:
    before = {worker.name: worker.log.read_text() for worker in broker.workers}
    for _ in range(100):
        assert answered(take(broker.app).answers) == everywhere(*names(broker))
    # A worker answers in order, so it has logged by now what the snapshots made it log.
    ping = broker.client().control.ping
    assert len(ping(timeout=4, limit=len(broker.workers))) == len(broker.workers)
    assert {worker.name: worker.log.read_text() for worker in broker.workers} == before


@pytest.mark.parametrize("broker", ["redis", "amqp"], indirect=True)
def test_every_other_worker_stopped__gone_at_once_and_not_missing(broker: Broker) -> None:
    """No test follows on these workers: pytest-django runs those with a database first."""
    answers = take(broker.app).answers
    lists = [*(answers["active"] or {}).values(), *(answers["reserved"] or {}).values()]
    # Who stops would wait for its task.
    broker.app.control.revoke([task["id"] for tasks in lists for task in tasks], terminate=True)
    for worker in broker.workers[::2]:
        worker.stop()
    del broker.workers[::2]
    snapshot = take(broker.app)
    assert answered(snapshot.answers) == everywhere(*names(broker))
    assert snapshot.missing == {}


def test_odd_arguments__every_worker_with_the_app_whole_and_nobody_deaf(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker("redis")
    for version in SUPPORTED:
        start(broker, version, with_app=True)
    for worker in broker.workers:
        worker.ready()
    send_three(broker, "x" * 1_500_000, **ODD)

    def at_work() -> Snapshot | None:
        snapshot = take(broker.app)
        assert answered(snapshot.answers) == everywhere(*names(broker))
        return snapshot if are_at_work(snapshot.answers) else None

    snapshot = wait_until(at_work, seconds=30, what="odd tasks under three keys")
    assert snapshot.missing == {}
    for name in names(broker):
        active, scheduled, reserved = (snapshot.answers[field][name] for field in FIELDS[:3])  # type: ignore[index]
        for [task] in (active, reserved, [scheduled[0]["request"]]):
            assert [len(text) for text in task["args"]] == [1_500_000]
            assert task["kwargs"] == {"seconds": 600, **ODD_AS_JSON}
    pongs = broker.client().control.inspect(timeout=4, limit=len(SUPPORTED)).ping()
    assert pongs == {name: {"ok": "pong"} for name in names(broker)}


def test_newest_and_oldest__both_named() -> None:
    """A matrix that lost an end would pass as well."""
    assert {"5.3", "5.4", "5.5", "5.6", "newest"} <= PYTHONS.keys()
    assert celery.VERSION >= (5, 4)
