"""Workers of several Celery versions on one broker; ``nox`` makes their environments."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import celery
import pytest
from rest_framework.test import APIClient

from celery_stats.control.question import FIELDS
from tests.comparison import without_what_changes
from tests.published import load, problems
from tests.support import Broker, Worker, wait_until

URL = "/api/celery-stats/"
PASSWORD = "hunter2"

#: Celery version to a Python that has it.
PYTHONS: dict[str, str] = json.loads(os.environ.get("CELERY_STATS_TEST_WORKERS", "{}"))

pytestmark = pytest.mark.skipif(not PYTHONS, reason="CELERY_STATS_TEST_WORKERS names no Pythons")


@pytest.fixture(params=["redis", "amqp"])
def broker(request: pytest.FixtureRequest, make_broker: Callable[..., Broker]) -> Broker:
    return make_broker(request.param)


def test_every_version__answers_everything_as_to_inspect(
    broker: Broker, use: Callable[[Broker], Broker], api: APIClient, settings: Any
) -> None:
    # Up to 5.6 workers send the URLs that they would fail over to with their passwords.
    spare = f"{broker.url};{broker.url.split(':')[0]}://:{PASSWORD}@127.0.0.1:1//"
    broker.config["broker_url"] = spare
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 4.0}
    use(broker)
    for version, python in PYTHONS.items():
        name = f"celery-{version}@mixed"
        worker = Worker(broker, name, pool="prefork", concurrency=1, python=python)
        broker.workers.append(worker)
    names = sorted(worker.ready().name for worker in broker.workers)
    inspect = broker.client().control.inspect(timeout=2, limit=len(names))
    wait_until(lambda: sorted(inspect.ping() or ()) == names, what="every worker")

    broker.app.control.revoke(["revoked"])
    held = [broker.send(countdown=3600, password=PASSWORD) for _ in names]
    # One runs with each and up to four wait, whoever takes the first.
    running = [broker.send(seconds=600, password=PASSWORD) for _ in range(3 * len(names))]

    def settled() -> Any:
        answer = api.get(URL, {"task_id": running}).json()
        active = answer["active"] or {}
        everyone = sorted(active) == names and all(active.values())
        found = sum(len(tasks) for tasks in (answer["scheduled"] or {}).values())
        return answer if everyone and found == len(held) else None

    answer = wait_until(settled, seconds=30, what="a task with every worker")
    assert [sorted(answer[field]) for field in FIELDS] == [names] * len(FIELDS)
    assert PASSWORD not in json.dumps(answer)
    assert problems(answer, load()) == []

    response = api.get(URL)
    assert "Celery-Stats-Missing" not in response
    inspect = broker.client().control.inspect(timeout=3, limit=len(names))
    for field in ("active", "reserved", "scheduled", "revoked"):
        told = json.loads(json.dumps(getattr(inspect, field)()).replace(PASSWORD, "*" * 20))
        assert without_what_changes(response.json()[field]) == without_what_changes(told)

    broker.app.control.revoke(running, terminate=True)  # who stops would wait for its task
    for worker in broker.workers[::2]:
        worker.stop()
    left = sorted(worker.name for worker in broker.workers[1::2])
    response = api.get(URL)
    assert sorted(response.json()["stats"]) == left
    assert "Celery-Stats-Missing" not in response


def test_newest_and_oldest__both_named() -> None:
    """A matrix that lost an end would pass as well."""
    assert {"5.3", "5.4", "5.5", "5.6", "newest"} <= PYTHONS.keys()
    assert celery.VERSION >= (5, 4)
