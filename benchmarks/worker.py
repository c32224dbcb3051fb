"""What the app costs a worker, and whether its answer is of one moment.

    python -m benchmarks.worker

Starts all it needs, and uses RabbitMQ if CELERY_STATS_TEST_AMQP_URL names one. Workers with the
app are sent one message for each snapshot, workers without it six messages.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from benchmarks.support import KINDS, cpu_seconds, measure, ms, place, show, status, take
from celery_stats.shapes import FIELDS
from tests import asking
from tests.brokers import Broker, Worker
from tests.moments import Answers, watch
from tests.processes import wait_until

NAME = "one@bench"
#: Snapshots for each figure of CPU, snapshots to watch tasks, and starts of each worker.
SNAPSHOTS, MOMENTS, STARTS = 1000, 500, 5
#: Tasks that a worker holds while its CPU is measured: one runs, the others wait, and as many
#: are held until their ETA.
TASKS = 5
#: The CPU of both ways is measured in turns, so that a busy machine slows down both alike.
TURNS = 10
#: The Django settings of a worker; none for a worker without Django.
PROJECTS = {
    "Celery without Django": "",
    "Django, without the app": "benchmarks.settings",
    "Django, with the app": "benchmarks.settings_with_app",
}


def start_busy(broker: Broker, *, with_app: bool) -> int:
    """Start a prefork worker with tasks; return the pid of its main process."""
    [worker] = broker.fleet(NAME, with_app=with_app, worker_prefetch_multiplier=100)
    for number in range(TASKS):
        broker.send(number, "invoice", seconds=3600)
        broker.send(number, "invoice", countdown=3600)

    def at_work() -> bool:
        answers = take(broker.app, 1).answers
        lengths = [len((answers[field] or {})[NAME]) for field in FIELDS[:3]]
        return lengths == [1, TASKS, TASKS - 1]

    wait_until(at_work, what="the tasks")
    return worker.pid


def cpu(kind: str) -> list[str]:
    """Return the row with the CPU that snapshots cost a worker."""

    def snapshots(broker: Broker) -> None:
        for _ in range(SNAPSHOTS // TURNS):
            take(broker.app, 1)

    with place(kind) as one, place(kind) as six:
        pids = [start_busy(one, with_app=True), start_busy(six, with_app=False)]
        ways = {"one": partial(snapshots, one), "six": partial(snapshots, six)}
        found = measure(ways, TURNS, lambda: [cpu_seconds(pid) for pid in pids])
    with_app, without_app = sum(found["one"][0]), sum(found["six"][1])
    return [kind, ms(with_app), ms(without_app), f"{with_app / without_app:.2f}"]


def inspect_in_turn(broker: Broker) -> Callable[[Sequence[str]], Answers]:
    """Return what asks by six ``inspect()`` calls, as another process would."""
    inspect = broker.client().control.inspect(limit=1)

    def ask(task_ids: Sequence[str]) -> Answers:
        ids = {"query_task": task_ids}
        return {field: getattr(inspect, field)(*ids.get(field, ())) for field in FIELDS}

    return ask


def moments(kind: str, way: str) -> list[str]:
    """Return the row that tells how many tasks stood under two keys of one snapshot."""
    with place(kind) as broker:
        with_app = way == "one message"
        broker.fleet(NAME, with_app=with_app, worker_prefetch_multiplier=100)

        def ask(task_ids: Sequence[str]) -> Answers:
            return asking.take(broker.app, 1.0, 5.0, task_ids=tuple(task_ids)).answers

        found = watch(broker, "prefork", MOMENTS, inspect_in_turn(broker) if "(" in way else ask)
    counts = [found.seen, found.moved, found.twice, found.lost]
    return [f"{kind}: {way}", *(str(len(ids)) for ids in counts)]


def start(settings: str) -> tuple[float, float, float]:
    """Start a worker as a process of its own.

    Returns:
        The seconds until it is ready, the MB that its main process holds then, and those after
        ten snapshots.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = settings
    with place("redis") as broker:
        started = time.monotonic()
        # Not a fork of a process that has imported Celery.
        worker = Worker(
            broker,
            NAME,
            pool="prefork",
            concurrency=1,
            with_app=bool(settings),
            python=sys.executable,
        )
        broker.workers.append(worker)
        wait_until(lambda: " ready." in worker.log.read_text(), seconds=60)
        taken = time.monotonic() - started
        memory = status(worker.pid, "VmRSS")
        worker.ready()
        for _ in range(10):
            take(broker.app, 1)
        return taken, memory / 1024, status(worker.pid, "VmRSS") / 1024


def main() -> None:
    kinds = [kind for kind in KINDS if kind != "filesystem"]
    show(
        f"CPU of a worker's main process for {SNAPSHOTS:,} snapshots of {2 * TASKS} tasks",
        ["broker", "one message", "six messages", "share"],
        [cpu(kind) for kind in kinds],
    )
    show(
        f"Tasks of a busy worker in {MOMENTS} snapshots",
        ["way", "seen", "seen to move", "under two keys", "lost in between"],
        [
            moments(kind, way)
            for kind in kinds
            for way in ("one message", "six messages", "six inspect() calls")
        ],
    )
    runs = {name: [start(path) for _ in range(STARTS)] for name, path in PROJECTS.items()}
    rows = []
    for name, taken in runs.items():
        ready, *memory = (median(column) for column in zip(*taken, strict=True))
        rows.append([name, ms(ready), *(f"{size:.1f} MB" for size in memory)])
    title = f"Start of a prefork worker, median of {STARTS}"
    show(title, ["worker", "ready after", "memory", "after ten snapshots"], rows)


if __name__ == "__main__":
    main()
