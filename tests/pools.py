"""Workers of every kind of pool, with content under every key that they can answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from celery_stats.control.broker import connections_for
from celery_stats.shapes import FIELDS
from tests.asking import take
from tests.brokers import Broker, RedisServer
from tests.processes import wait_until

POOLS = ("prefork", "solo", "threads", "gevent")
# A solo worker that runs a task answers nothing, so it never shows one that is active or
# waits behind another.
IDLE = ("solo",)
# Before Celery 5.7, query_task did not know the tasks that are held until an ETA.
BUSY = ("active", "reserved", "query_task")


@dataclass(frozen=True)
class Fleet:
    """Workers at work.

    Attributes:
        broker: where they are.
        workers: pool to worker name.
        task_ids: a task that each of them holds until its ETA and, but for solo, one that runs.
    """

    broker: Broker
    workers: Mapping[str, str]
    task_ids: tuple[str, ...]


@contextmanager
def at_work(server: RedisServer, db: int) -> Iterator[Fleet]:
    """One worker for each pool, each with tasks in all the states that it can show."""
    broker = Broker("redis", f"redis://127.0.0.1:{server.port}/{db}")
    control = broker.app.control
    try:
        workers = {pool: f"{pool}@pools" for pool in POOLS}
        for pool, name in workers.items():
            broker.start(name, pool=pool)
        task_ids = []
        for worker in broker.workers:
            name = worker.ready().name
            # A greenlet opens the mailbox, perhaps only after its worker says that it is ready.
            wait_until(
                partial(control.add_consumer, name, destination=[name], reply=True, limit=1)
            )
            send = partial(broker.app.send_task, "tests.nap", queue=name)
            task_ids.append(send([1, "é"], countdown=3600).id)
            if name not in (workers[pool] for pool in IDLE):
                kwargs = {"seconds": 600, "password": "hunter2"}
                task_ids += [send([None, [1.5]], kwargs).id for _ in range(3)]
        control.revoke(["revoked-1", "revoked-2"])

        def everywhere() -> bool:
            answers = take(broker.app, 1.0, 5.0, task_ids=tuple(task_ids)).answers
            return all(
                (answers[field] or {}).get(name) or (pool in IDLE and field in BUSY)
                for field in FIELDS
                for pool, name in workers.items()
            )

        wait_until(everywhere, what="content under every key from every pool")
        yield Fleet(broker, workers, tuple(task_ids))
    finally:
        connections_for(broker.app).close()
        broker.close()
