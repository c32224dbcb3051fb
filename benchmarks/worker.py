"""What the app costs a worker, and whether its answer is of one moment.

    python -m benchmarks.worker
    python -m benchmarks.worker --only redis --snapshots 100 --moments 50 --starts 1

Starts all it needs: a private Redis and real workers, and uses RabbitMQ if
CELERY_STATS_TEST_AMQP_URL names one. Linux only, for ``/proc``.

Workers with the app are sent one message for each snapshot, workers without it six messages.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from benchmarks.support import cpu_seconds, is_whole, ms, place, show, status, verdict
from celery_stats.control.question import FIELDS, Options, Question
from celery_stats.control.snapshot import take_snapshot
from tests.brokers import AMQP_URL, Broker, Worker
from tests.moments import Answers, watch
from tests.processes import wait_until

NAME = "one@bench"

#: A snapshot with one message costs a worker at most this share of one with six.
CPU_BOUND = 1 / 3

#: Tasks that a worker holds while its CPU is measured: one runs, the others wait, and as many
#: are held until their ETA.
TASKS = 5

#: The CPU of both ways is measured in so many turns.
TURNS = 10

#: The project of a worker: its settings, or None for no Django.
PROJECTS: dict[str, str | None] = {
    "Celery without Django": None,
    "Django, without the app": "benchmarks.settings_without_app",
    "Django, with the app": "benchmarks.settings_with_app",
}


def take(broker: Broker, task_ids: Sequence[str] = ()) -> Answers:
    return take_snapshot(Question(task_ids=tuple(task_ids)), Options(broker.app)).answers


def inspect_in_turn(broker: Broker) -> Callable[[Sequence[str]], Answers]:
    """Return what asks by six ``inspect()`` calls, as another process would."""
    inspect = broker.client().control.inspect(limit=1)

    def ask(task_ids: Sequence[str]) -> Answers:
        calls = {name: partial(getattr(inspect, name)) for name in FIELDS}
        calls["query_task"] = partial(inspect.query_task, *task_ids)
        return {name: call() for name, call in calls.items()}

    return ask


# -- CPU


class BusyWorker:
    """A prefork worker with tasks, and the CPU of its main process."""

    def __init__(self, broker: Broker, *, with_app: bool) -> None:
        self.broker = broker
        [worker] = broker.fleet(NAME, with_app=with_app, worker_prefetch_multiplier=100)
        self.pid = worker.pid
        for number in range(TASKS):
            broker.send(number, "invoice", seconds=3600)
            broker.send(number, "invoice", countdown=3600)
        wait_until(self._at_work, what="the tasks")

    def _at_work(self) -> bool:
        answers = take(self.broker)
        tasks = [answers[name][NAME] for name in FIELDS[:3]]  # type: ignore[index]
        return [len(each) for each in tasks] == [1, TASKS, TASKS - 1]

    def cpu(self, snapshots: int) -> float:
        """Take snapshots; return the CPU seconds that they cost the worker."""
        before = cpu_seconds(self.pid)
        for _ in range(snapshots):
            if not is_whole(take(self.broker), 1):
                raise AssertionError("the worker did not answer everything")
        return cpu_seconds(self.pid) - before


def show_cpu(kinds: Sequence[str], snapshots: int) -> None:
    rows = []
    for kind in kinds:
        with place(kind) as one_place, place(kind) as six_place:
            one = BusyWorker(one_place, with_app=True)
            six = BusyWorker(six_place, with_app=False)
            spent = [0.0, 0.0]
            # In turns, so that a machine that is busy for a while slows down both alike.
            for _ in range(TURNS):
                spent[0] += one.cpu(snapshots // TURNS)
                spent[1] += six.cpu(snapshots // TURNS)
        share = spent[0] / spent[1]
        holds = verdict(share, CPU_BOUND)
        rows.append([kind, *map(ms, spent), f"{share:.2f}", f"{CPU_BOUND:.2f}", holds])
    show(
        f"CPU of a worker's main process for {snapshots:,} snapshots of {2 * TASKS} tasks",
        ["broker", "one message", "six messages", "share", "at most", ""],
        rows,
    )


# -- one moment


def show_moments(kinds: Sequence[str], snapshots: int) -> None:
    rows = []
    for kind in kinds:
        for pool in ("prefork", "solo"):
            for way in ("one message", "six messages", "six inspect() calls"):
                with place(kind) as broker:
                    with_app, in_turn = way == "one message", way == "six inspect() calls"
                    config = {"worker_prefetch_multiplier": 100}
                    broker.fleet(NAME, pool=pool, with_app=with_app, **config)
                    ask = inspect_in_turn(broker) if in_turn else partial(take, broker)
                    found = watch(broker, pool, snapshots, ask)
                counts = [len(ids) for ids in (found.seen, found.moved, found.twice, found.lost)]
                holds = verdict(len(found.twice | found.lost), 0) if with_app else ""
                rows.append([f"{kind}, {pool}: {way}", *map(str, counts), holds])
    show(
        f"Tasks of a busy worker in {snapshots} snapshots",
        ["way", "seen", "seen to move", "under two keys", "lost in between", ""],
        rows,
    )
    print("a solo worker runs a task in one turn: its tasks are seen until their ETA alone")


# -- start and memory


def start(broker: Broker, settings: str | None) -> tuple[float, int, int, float]:
    """Start a worker as a process of its own.

    Returns:
        The seconds until it is ready, the kB that its main process holds then and after its
        first snapshots, and the seconds of the first one.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = settings or ""
    started = time.monotonic()
    worker = Worker(
        broker,
        NAME,
        pool="prefork",
        concurrency=1,
        python=sys.executable,  # not a fork of a process that has imported Celery
        with_app=settings is not None,
    )
    try:
        wait_until(lambda: " ready." in worker.log.read_text(), seconds=60, what="the worker")
        ready = time.monotonic() - started
        memory = status(worker.pid, "VmRSS")
        worker.ready()
        first = time.monotonic()
        take(broker)
        first = time.monotonic() - first
        for _ in range(10):
            take(broker)
        return ready, memory, status(worker.pid, "VmRSS"), first
    finally:
        worker.stop()


def show_starts(starts: int) -> None:
    runs: dict[str, list[tuple[float, int, int, float]]] = {name: [] for name in PROJECTS}
    for _ in range(starts):
        for name, settings in PROJECTS.items():
            with place("redis") as broker:
                runs[name].append(start(broker, settings))
    rows = []
    for name, taken in runs.items():
        ready, memory, later, first = (median(column) for column in zip(*taken, strict=True))
        rows.append(
            [name, ms(ready), f"{memory / 1024:.1f} MB", f"{later / 1024:.1f} MB", ms(first)]
        )
    show(
        f"Start of a prefork worker, median of {starts}; memory is the main process's",
        ["worker", "ready after", "memory then", "after ten snapshots", "the first snapshot"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ["redis", *(["amqp"] if AMQP_URL else [])]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="the brokers")
    parser.add_argument("--snapshots", type=int, default=1000, help="for CPU; 0 leaves it out")
    parser.add_argument("--moments", type=int, default=500, help="snapshots; 0 leaves them out")
    parser.add_argument("--starts", type=int, default=5, help="of each worker; 0 leaves them out")
    options = parser.parse_args()
    if options.snapshots:
        show_cpu(options.only, options.snapshots)
    if options.moments:
        show_moments(options.only, options.moments)
    if options.starts:
        show_starts(options.starts)


if __name__ == "__main__":
    main()
