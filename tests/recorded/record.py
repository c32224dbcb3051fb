"""Records replies of real workers: ``python -m tests.recorded.record`` writes ``replies.json``.

Needs ``redis-server``. Process ids, times and ids of tasks are other ones each time, so all
expected answers change with the recording.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from celery_stats.control.snapshot import Snapshot
from tests.asking import take
from tests.brokers import Broker, RedisServer, Worker
from tests.celery_app import ODD
from tests.processes import ROOT, wait_until

SECRETS = {
    "password": "hunter2",
    "callback": "https://user:hunter3@example.com/hook?token=hunter4",
    "headers": [["Authorization", "Bearer hunter5"]],
    "note": "the report of March, {'api_key': 'hunter6'}",
    "customer": 4711,
}


#: Tasks that each worker runs. One of the pool solo that runs a task answers nothing.
RUNNING = {
    "broken@web-2": 1,
    "prefork@web-1": 2,
    "scaled@web-1": 3,
    "solo@web-2": 0,
    "threads@web-2": 2,
}


class Autoscaled(Worker):
    """A worker with one to three processes."""

    def _run(self, args: list[str], env: dict[str, str]) -> Any:
        return super()._run([*args, "--autoscale", "3,1"], env)


def start(broker: Broker) -> None:
    """Start workers of several pools, with the app and without it."""
    broker.start("prefork@web-1", concurrency=2, with_app=True)
    scaled = Autoscaled(
        broker, "scaled@web-1", pool="prefork", concurrency=1, with_app=True, config={}
    )
    broker.workers.append(scaled)
    broker.start("solo@web-2", pool="solo")
    broker.start("threads@web-2", pool="threads", concurrency=2)
    broker.start("broken@web-2", imports=["tests.broken_commands"])
    for worker in broker.workers:
        worker.ready()
        add_queue = broker.app.control.add_consumer
        add_queue(queue_of(worker), destination=[worker.name], reply=True, limit=1)


def queue_of(worker: Worker) -> str:
    return worker.name.partition("@")[0]


def send(broker: Broker, *args: Any, queue: str, **options: Any) -> str:
    return str(broker.app.send_task("tests.nap", args, queue=queue, **options).id)


def busy(broker: Broker) -> tuple[Snapshot, list[str]]:
    """Every worker has tasks in each state that its pool can show."""
    task_ids = []
    for worker in broker.workers:
        queue = queue_of(worker)
        kwargs = {"seconds": 600, **SECRETS}
        task_ids.append(send(broker, 1, "é", queue=queue, kwargs=SECRETS, countdown=3600))
        if queue != "solo":
            task_ids += [send(broker, None, [1.5], queue=queue, kwargs=kwargs) for _ in range(5)]
    control = broker.app.control
    control.revoke([f"revoked-{number}" for number in range(3)])
    # So that messages wait in this queue, and nobody reads it.
    workers = len(broker.workers)
    control.cancel_consumer(f"{broker.namespace}.tasks", reply=True, limit=workers)
    for _ in range(3):
        send(broker, queue=f"{broker.namespace}.tasks")

    def settled() -> Snapshot | None:
        found = take(broker.app, queues=True)
        running, scheduled = (found.answers[key] or {} for key in ("active", "scheduled"))
        lengths = {name: len(tasks) for name, tasks in running.items()}
        return found if lengths == RUNNING and all(scheduled.values()) else None

    return wait_until(settled, seconds=30, what="tasks everywhere"), task_ids


def in_part(broker: Broker) -> Snapshot:
    """One worker answers in part, and one was killed."""
    killed, partial = broker.fleet("killed@web-3", "partial@web-3")
    killed.kill()
    # A worker without the app cannot encode these arguments.
    for countdown in (3600, None):
        kwargs = {"seconds": 600, "set": ODD["set"]}
        options = {"kwargs": kwargs, "serializer": "pickle", "countdown": countdown}
        send(broker, queue=f"{broker.namespace}.tasks", **options)

    def settled() -> Snapshot | None:
        found = take(broker.app, timeout=1.0, queues=True)
        return found if 0 < len(found.missing.get(partial.name, ())) < 6 else None

    return wait_until(settled, seconds=30, what="a partial answer")


def record(broker: Broker) -> Iterator[tuple[str, Mapping[str, Any], Snapshot]]:
    """Yield the name, the query and the snapshot of each situation."""
    yield "nobody", {}, take(broker.app, queues=True)
    start(broker)
    snapshot, task_ids = busy(broker)
    yield "busy", {}, snapshot
    query = {
        "task_id": (task_ids[0], task_ids[1], "unknown"),
        "worker": ("prefork@web-1", "nowhere@web-3"),
    }
    names = {"task_id": "task_ids", "worker": "workers"}
    asked = {names[name]: values for name, values in query.items()}
    yield "looked_up", query, take(broker.app, queues=True, look_up=query["task_id"], **asked)


def encode(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else value.isoformat()


def main() -> None:
    server = RedisServer()
    options = {"sentinel_kwargs": {"password": "hunter7"}, "client_name": "shop"}
    url = f"redis://127.0.0.1:{server.port}"
    brokers = [Broker("redis", f"{url}/{db}", broker_transport_options=options) for db in range(2)]
    try:
        situations = [*record(brokers[0]), ("in_part", {}, in_part(brokers[1]))]
    finally:
        for broker in brokers:
            broker.close()
        server.stop()
    found = {name: {"query": query, **asdict(snapshot)} for name, query, snapshot in situations}
    for recorded in found.values():
        del recorded["question"]  # The query says what was asked.
    text = json.dumps(found, indent=1, default=encode)
    for broker in brokers:
        text = text.replace(broker.namespace, "shop")
    text = text.replace(f": {server.port}", ": 6379")
    text = text.replace('"127.0.0.1"', '"broker.internal"')
    for private in (socket.gethostname(), str(ROOT), str(Path.home()), str(server.port)):
        assert private not in text
    Path(__file__).with_name("replies.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
