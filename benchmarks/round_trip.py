"""One snapshot beside the other ways to get one, and how it grows with the fleet.

    python -m benchmarks.round_trip
    python -m benchmarks.round_trip --only redis --rounds 3 --scale
    python -m benchmarks.round_trip --only redis amqp --rounds 0 --scale --endurance 1000

Starts all it needs: a private Redis, real and simulated workers, and gunicorn with the demo
project. RabbitMQ takes part if CELERY_STATS_TEST_AMQP_URL names one. Everything shares the
machine's cores, so quote ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from shutil import which
from statistics import median

from benchmarks import support
from benchmarks.support import check_whole, measure, ms, place, show, simulated, take
from celery_stats.shapes import FIELDS
from tests.answers import mask
from tests.brokers import Broker
from tests.processes import ROOT

#: Runs of each fast way for one of the slow way, and starts of a process for its first snapshot.
REPEAT, STARTS = 20, 3
IN_TURN, PING, FIRST = "six inspect() calls in turn", "one ping with limit", "first of a process"

#: Prints the seconds of a new process's first snapshot.
FIRST_SNAPSHOT = """
from benchmarks.support import measure, take
from tests.celery_app import app
print(measure({"": lambda: take(app, 2)}, 1)[""][0][0])
"""


def compare(kind: str, token: str, rounds: int) -> None:
    """Print every way's median, all taken in turns."""
    with ExitStack() as stack:
        broker, without_app = (stack.enter_context(place(kind)) for _ in range(2))
        for each in (broker, without_app):
            each.fleet("one@bench", "two@bench", concurrency=2, with_app=each is broker)
        other = broker.client().control  # as another process would have it
        web = stack.enter_context(support.Web(broker, token))
        get = web.client()

        def in_turn() -> None:
            inspect = other.inspect()
            check_whole({field: getattr(inspect, field)() for field in FIELDS}, 2)

        fast: dict[str, Callable[[], object]] = {
            PING: lambda: other.inspect(limit=2).ping(),
            "a function call": partial(take, broker.app, 2),
            "… workers without the app": partial(take, without_app.app, 2),
            "GET through gunicorn": lambda: check_whole(json.loads(get()), 2),
            "GET of the page": web.client("?format=html"),
            "GET refused with 400": web.client("?field=unknown", expects=400),
        }
        found = measure({IN_TURN: in_turn}, rounds)
        measure(fast, 1)  # after seconds of idleness
        found |= measure(fast, REPEAT * rounds)
        found[FIRST] = [[first_snapshot(broker) for _ in range(STARTS)]]
    typical = {name: median(taken) for name, [taken] in found.items()}
    rows = [
        [name, ms(taken), f"{typical[IN_TURN] / taken:,.1f}", f"{taken / typical[PING]:,.2f}"]
        for name, taken in typical.items()
    ]
    title = f"{kind}: two prefork workers of two processes, {rounds} rounds"
    show(title, ["way", "median", "times as fast", "of a ping"], rows)


def first_snapshot(broker: Broker) -> float:
    env = {**os.environ, "CELERY_STATS_TEST_CONFIG": broker.config_json}
    command = [sys.executable, "-c", FIRST_SNAPSHOT]
    return float(subprocess.check_output(command, cwd=ROOT, env=env, timeout=60))


def solo(kind: str, count: int) -> None:
    """Print what a snapshot of real solo workers takes, with the app and without it."""
    rows = []
    for title, with_app in (("one message", True), ("six messages", False)):
        with place(kind) as broker:
            names = [f"{number}@solo" for number in range(count)]
            for start in range(0, count, 10):
                broker.fleet(*names[start : start + 10], pool="solo", with_app=with_app)
            pids = [worker.pid for worker in broker.workers]
            ping = broker.client().control.inspect(limit=count, timeout=5).ping
            found = measure(
                {"": partial(take, broker.app, count, timeout=5), PING: ping},
                REPEAT,
                lambda: (time.monotonic(), support.cpu_seconds(*pids), time.process_time()),  # noqa: B023
            )
        times, fleet_cpu, own_cpu = found[""]
        ours, cpu = median(times), [ms(sum(spent) / REPEAT) for spent in (fleet_cpu, own_cpu)]
        rows.append([title, ms(ours), f"{ours / median(found[PING][0]):.1f}", *cpu])
    header = ["way", "snapshot", "of a ping", "CPU of all workers", "CPU of the caller"]
    show(f"{kind}: {count} real solo workers", header, rows)


def grow(sizes: list[int]) -> None:
    """Print what a snapshot of more and more simulated workers on Redis takes."""
    from rest_framework.renderers import JSONRenderer

    rows = []
    for size in sizes:
        with place("redis") as broker, simulated(broker, size):
            # On a crowded machine the whole fleet may be silent for more than a second.
            run = partial(take, broker.app, size, timeout=10)
            answer = len(JSONRenderer().render(mask(run().answers)))
            turns = max(9, min(200, 1000 // size))
            found = measure({"": run}, turns, lambda: (time.monotonic(), time.process_time()))
        rows.append([f"{size:,}", *(ms(median(column)) for column in found[""]), f"{answer:,}"])
    header = ["workers", "time", "CPU of the caller", "bytes of the answer"]
    show("redis: simulated workers", header, rows)


def leftovers(broker: Broker) -> dict[str, int]:
    """Return what snapshots could leave behind, in this process and in the broker."""
    found = {"descriptors": support.descriptors("self"), "threads": threading.active_count()}
    if broker.kind == "redis":
        with broker.app.connection_for_write() as connection:
            client = connection.default_channel.client
            found |= {"keys": len(client.keys()), "connections": len(client.client_list())}
    columns = {"queues": "name", "exchanges": "name", "connections": "pid"}
    for what, column in columns.items() if broker.kind == "amqp" and which("rabbitmqctl") else ():
        listed = ["rabbitmqctl", "--silent", f"list_{what}", column]
        done = subprocess.run(listed, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        found[what] = done.stdout.count("\n" if column == "pid" else broker.namespace)
    return found


def endure(kind: str, count: int) -> None:
    """Take many snapshots in a row; print what grew. Each must be whole."""
    with place(kind) as broker, simulated(broker, 20):
        marks = []
        for several in (10, count - 10):
            for _ in range(several):
                take(broker.app, 20)
            marks.append(leftovers(broker))
    rows = [[what, *(str(mark[what]) for mark in marks)] for what in marks[0]]
    title = f"{kind}: {count:,} snapshots of 20 simulated workers, all whole"
    show(title, ["", "after 10", f"after {count:,}"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=support.KINDS, default=support.KINDS, help="the brokers"
    )
    parser.add_argument("--rounds", type=int, default=5, help="0 leaves the comparison out")
    parser.add_argument("--scale", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--solo", type=int, default=0, metavar="WORKERS", help="real solo workers")
    parser.add_argument("--endurance", type=int, default=0, metavar="SNAPSHOTS")
    options = parser.parse_args()
    with support.demo_project() as token:
        for kind in options.only:
            if options.rounds:
                compare(kind, token, options.rounds)
            if options.solo:
                solo(kind, options.solo)
            if options.endurance and kind != "filesystem":
                endure(kind, options.endurance)
        if options.scale:
            grow(options.scale)


if __name__ == "__main__":
    main()
