"""One snapshot beside the other ways to get one, and how it grows with the fleet.

    python -m benchmarks.round_trip
    python -m benchmarks.round_trip --only redis --rounds 3 --scale
    python -m benchmarks.round_trip --only redis amqp --rounds 0 --scale --endurance 1000

Starts all it needs: a private Redis, two real prefork workers, gunicorn with the demo
project; Flower if it is installed, and RabbitMQ if CELERY_STATS_TEST_AMQP_URL names one.
Everything shares the machine's cores, so quote ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from shutil import which
from statistics import median
from typing import Any

from celery import Celery

from benchmarks.support import (
    CORES,
    Client,
    Fleet,
    Flower,
    Web,
    cpu_seconds,
    demo_project,
    descriptors,
    is_whole,
    ms,
    place,
    show,
    verdict,
)
from celery_stats.control.connection import ControlConnection
from celery_stats.control.question import FIELDS, Options, Question
from celery_stats.control.snapshot import Snapshot, take_snapshot
from tests.brokers import AMQP_URL, Broker
from tests.processes import ROOT

WORKERS = ("one@bench", "two@bench")

#: Fast ways are run so many times in each round, one after the other.
REPEAT = 20

#: A function call takes at most so many times one ping.
PINGS = 1.5

#: A GET takes at most so many pings more than one that is refused.
PINGS_OF_A_GET = 2

#: Seconds of the client's CPU that a snapshot of 1,000 workers takes at most.
CPU_OF_1000 = 0.3

#: Starts of a process, for its first snapshot.
STARTS = 3

#: Those of the ways that are compared with a bound.
PING, CALL = "one ping with limit, the floor", "ours: function call, one message"
GET, REFUSED = "ours: GET through gunicorn", "a GET refused with 400"

#: Prints the seconds of a new process's first snapshot.
FIRST_SNAPSHOT = """
import time
from celery_stats.control.question import Options, Question
from celery_stats.control.snapshot import take_snapshot
from tests.celery_app import app
started = time.monotonic()
snapshot = take_snapshot(Question(), Options(app))
print(time.monotonic() - started)
assert all(len(reply or ()) == 2 for reply in snapshot.answers.values())
"""


class Ways:
    """The ways to ask two workers everything; each returns field to worker to reply."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        # Apart from ours, as another process would have it.
        self.other = broker.client()

    def ours(self) -> Any:
        return take(self.broker.app).answers

    def in_turn(self) -> Any:
        inspect = self.other.control.inspect()
        return {name: getattr(inspect, name)() for name in FIELDS}

    def in_threads(self) -> Any:
        answers: dict[str, Any] = {}

        def ask(name: str) -> None:
            answers[name] = getattr(self.other.control.inspect(), name)()

        threads = [threading.Thread(target=ask, args=(name,)) for name in FIELDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def ping(self) -> Any:
        """One command, ended by the last answer: what no way can do without."""
        return dict.fromkeys(FIELDS, self.other.control.inspect(limit=len(WORKERS)).ping())


def take(app: Celery, timeout: float = 1.0, deadline: float = 5.0) -> Snapshot:
    return take_snapshot(Question(), Options(app, timeout, deadline))


def timed(run: Callable[[], Any]) -> float:
    started = time.monotonic()
    answers = run()
    elapsed = time.monotonic() - started
    if not is_whole(answers, len(WORKERS)):
        raise AssertionError(f"not whole: {answers!s:.300}")
    return elapsed


def from_flower(client: Client) -> Any:
    # It leaves out what is empty, and does not ask for query_task at all.
    names = [name for name, worker in client.get().items() if "stats" in worker]
    return dict.fromkeys(FIELDS, names)


def refused(client: Client) -> Any:
    """What a GET costs besides its snapshot: HTTP, the token's query, REST framework."""
    client.get()
    return dict.fromkeys(FIELDS, WORKERS)


def first_snapshots(broker: Broker) -> list[float]:
    return [
        float(
            subprocess.run(
                [sys.executable, "-c", FIRST_SNAPSHOT],
                cwd=ROOT,
                env={
                    **os.environ,
                    "CELERY_STATS_TEST_CONFIG": broker.config_json,
                },
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=60,
            ).stdout
        )
        for _ in range(STARTS)
    ]


def first_gets(broker: Broker, token: str) -> list[float]:
    times = []
    for _ in range(STARTS):
        web = Web(broker, token)
        try:
            times.append(timed(web.client().get))
        finally:
            web.stop()
    return times


def compare(kind: str, token: str, rounds: int) -> None:
    """Print every way's median, all taken in turns."""
    with ExitStack() as stack:
        broker = stack.enter_context(place(kind))
        broker.fleet(*WORKERS, concurrency=2, with_app=True)
        ways = Ways(broker)
        stack.callback(ways.other.close)
        without_app = stack.enter_context(place(kind))
        without_app.fleet(*WORKERS, concurrency=2)
        web = Web(broker, token, "--threads", "8")
        stack.callback(web.stop)
        get, refusing = web.client().get, web.client("?field=unknown", expects=400)
        slow: dict[str, Callable[[], Any]] = {
            "six inspect() calls in turn": ways.in_turn,
            "six inspect() calls in threads": ways.in_threads,
        }
        if Flower.INSTALLED:
            flower = Flower(broker)
            stack.callback(flower.stop)
            slow["Flower's /api/workers?refresh=1"] = lambda: from_flower(flower.client)
        fast = {
            PING: ways.ping,
            CALL: ways.ours,
            "ours, workers without the app: six messages": Ways(without_app).ours,
            GET: get,
            REFUSED: lambda: refused(refusing),
        }
        for run in fast.values():
            timed(run)  # the first ones are measured in processes of their own
        times: dict[str, list[float]] = {name: [] for name in [*slow, *fast]}
        for _ in range(rounds):
            for name, run in slow.items():
                times[name].append(timed(run))
            for run in fast.values():
                timed(run)  # after seconds of idleness
            for _ in range(REPEAT):
                for name, run in fast.items():
                    times[name].append(timed(run))
        times["ours: a process's first call"] = first_snapshots(broker)
        times["ours: a process's first GET"] = first_gets(broker, token)
    reference, floor = (median(times[name]) for name in (next(iter(slow)), next(iter(fast))))
    rows = [
        [
            name,
            str(len(taken)),
            ms(median(taken)),
            ms(max(taken)),
            f"{reference / median(taken):,.1f}",
            f"{median(taken) / floor:,.2f}",
        ]
        for name, taken in times.items()
    ]
    title = f"{kind}: two prefork workers of two processes, {rounds} rounds"
    show(title, ["way", "runs", "median", "worst", "times as fast", "of the floor"], rows)
    call, ping, whole, refusal = (median(times[name]) for name in (CALL, PING, GET, REFUSED))
    bounds = [
        ("function call, one message", call, f"{PINGS} pings", PINGS * ping),
        (
            "GET through gunicorn",
            whole,
            f"a refused GET and {PINGS_OF_A_GET} pings",
            refusal + PINGS_OF_A_GET * ping,
        ),
    ]
    show(
        f"{kind}: the bounds",
        ["way", "median", "at most", "that is", ""],
        [
            [name, ms(taken), of, ms(most), verdict(taken, most)]
            for name, taken, of, most in bounds
        ],
    )


def solo(kind: str, count: int) -> None:
    """Print what a snapshot of real solo workers takes, with the app and without it."""
    rows = []
    for title, with_app in (("one message", True), ("six messages", False)):
        with place(kind) as broker:
            names = [f"{number}@solo" for number in range(count)]
            for start in range(0, count, 10):
                broker.fleet(*names[start : start + 10], pool="solo", with_app=with_app)
            take(broker.app, timeout=5, deadline=20)
            other = broker.client()
            pids = [worker.pid for worker in broker.workers]
            times: dict[str, list[float]] = {"ours": [], "ping": []}
            fleet_cpu = client_cpu = 0.0
            for _ in range(REPEAT):
                before = sum(map(cpu_seconds, pids)), time.process_time()
                started = time.monotonic()
                snapshot = take(broker.app, timeout=5, deadline=20)
                times["ours"].append(time.monotonic() - started)
                fleet_cpu += sum(map(cpu_seconds, pids)) - before[0]
                client_cpu += time.process_time() - before[1]
                if not is_whole(snapshot.answers, count):
                    raise AssertionError("not every worker answered")
                started = time.monotonic()
                other.control.inspect(limit=count, timeout=5).ping()
                times["ping"].append(time.monotonic() - started)
            ours, ping = median(times["ours"]), median(times["ping"])
            cpu = [f"{1e3 * spent / REPEAT:.1f} ms" for spent in (fleet_cpu, client_cpu)]
            bound = [f"{PINGS}", verdict(ours / ping, PINGS)] if with_app else ["", ""]
            rows.append([title, ms(ours), ms(ping), f"{ours / ping:.2f}", *bound, *cpu])
            other.close()
    show(
        f"{kind}: {count} real solo workers",
        ["way", "snapshot", "one ping", "of the ping", "at most", "", "fleet CPU", "client CPU"],
        rows,
    )


def fleet_alone(app: Celery, count: int) -> float:
    """Seconds until all replies lie in the reply queue, with nobody reading them."""
    connection = ControlConnection(app, 60)
    queue = connection.reply_queue(connection.channel)
    queue.declare()
    started = time.monotonic()
    patience = started + 60
    with connection.together():
        connection.publish("stats", Question().together(FIELDS), expires=60)
    # Each look costs Redis next to nothing; it is polled no more often than need be.
    while connection.channel.client.llen(queue.name) < count:
        if time.monotonic() > patience:
            raise AssertionError("replies were lost")
        time.sleep(0.001)
    elapsed = time.monotonic() - started
    queue.delete()
    connection.close()
    return elapsed


def grow(sizes: list[int], rounds: int) -> None:
    """Print what a snapshot of more and more simulated workers on Redis takes."""
    from rest_framework.renderers import JSONRenderer

    from celery_stats.masking.answers import mask

    rows = []
    client_cpu: dict[int, float] = {}
    for size in sizes:
        with place("redis") as broker, Fleet(broker, size, with_app=True) as fleet:
            redis_pid = broker_pid(broker)
            # On a crowded machine the whole fleet may be silent for more than a second.
            take(broker.app, timeout=10, deadline=60)
            runs = []
            # Enough to be seen on a clock that ticks a hundred times a second.
            for _ in range(max(rounds, min(200, 1000 // size))):
                before = fleet.cpu(), cpu_seconds(redis_pid), time.process_time()
                started = time.monotonic()
                snapshot = take(broker.app, timeout=10, deadline=60)
                elapsed = time.monotonic() - started
                ours = time.process_time() - before[2]
                spent = fleet.cpu() - before[0], cpu_seconds(redis_pid) - before[1]
                if not is_whole(snapshot.answers, size) or snapshot.missing:
                    raise AssertionError(f"of {size} workers not all answered")
                runs.append((elapsed, ours, *spent))
            alone = median(fleet_alone(broker.app, size) for _ in range(rounds))
            answer = len(JSONRenderer().render(mask(snapshot.answers)))
        elapsed, ours = (median(run[i] for run in runs) for i in (0, 1))
        # Ticks are coarse: a mean, not a median.
        fleet_cpu, redis_cpu = (sum(run[i] for run in runs) / len(runs) for i in (2, 3))
        client_cpu[size] = ours
        replies = size
        rows.append(
            [
                f"{size:,}",
                f"{replies:,}",
                ms(elapsed),
                f"{1e3 * elapsed / replies:.3f} ms",
                f"{1e3 * ours / replies:.3f} ms",
                f"{1e3 * fleet_cpu / replies:.3f} ms",
                f"{1e3 * redis_cpu / replies:.3f} ms",
                f"{alone / elapsed:.0%}",
                f"{answer:,}",
            ]
        )
    header = ["workers", "replies", "time", "for a reply", "client CPU", "fleet CPU", "Redis CPU"]
    show(
        f"redis: simulated workers in {CORES} processes on {CORES} cores, CPU for a reply",
        [*header, "fleet alone", "bytes of the answer"],
        rows,
    )
    if 1000 in client_cpu:
        spent, outcome = client_cpu[1000], verdict(client_cpu[1000], CPU_OF_1000)
        print(f"client CPU, 1,000 workers: {ms(spent)}, at most {ms(CPU_OF_1000)}: {outcome}")
    print("fleet alone: until all replies lie unread in the reply queue, as a share of the time")


def broker_pid(broker: Broker) -> int:
    with broker.app.connection_for_write() as connection:
        return int(connection.default_channel.client.info("server")["process_id"])


def leftovers(broker: Broker) -> dict[str, Any]:
    """What snapshots could leave behind, in this process and in the broker."""
    found: dict[str, Any] = {
        "descriptors": descriptors("self"),
        "threads": threading.active_count(),
    }
    if broker.kind == "redis":
        with broker.app.connection_for_write() as connection:
            client = connection.default_channel.client
            found["keys"] = sorted(client.keys())
            found["connections"] = len(client.client_list())
    elif broker.kind == "amqp" and which("rabbitmqctl"):
        for what in ("queues", "exchanges", "connections"):
            column = "pid" if what == "connections" else "name"
            lines = subprocess.run(
                ["rabbitmqctl", "--silent", f"list_{what}", column],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=60,
            ).stdout.splitlines()
            if what != "connections":
                found[what] = sorted(line for line in lines if broker.namespace in line)
    return found


def how_many(found: Any) -> str:
    return str(len(found) if isinstance(found, list) else found)


def endure(kind: str, count: int, size: int = 20) -> None:
    """Take many snapshots in a row; print how many were whole, and what grew."""
    with place(kind) as broker, Fleet(broker, size):
        whole, times = 0, []
        before: dict[str, Any] = {}
        for number in range(count):
            snapshot = take(broker.app)
            whole += is_whole(snapshot.answers, size) and not snapshot.missing
            times.append(snapshot.elapsed)
            if number + 1 == min(10, count):
                before = leftovers(broker)
        after = leftovers(broker)
    rows = [
        [what, *map(how_many, (before[what], after[what])), str(before[what] == after[what])]
        for what in before
    ]
    title = (
        f"{kind}: {count:,} snapshots in a row of {size} simulated workers: {whole:,} whole;"
        f" median {ms(median(times))}, worst {ms(max(times))}"
    )
    show(title, ["", "after 10", f"after {count:,}", "the same"], rows)
    if whole != count or before != after:
        raise AssertionError("not every snapshot was whole, or something was left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ["redis", *(["amqp"] if AMQP_URL else []), "filesystem"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="the brokers")
    parser.add_argument("--rounds", type=int, default=5, help="0 leaves the comparison out")
    parser.add_argument("--scale", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--solo", type=int, default=0, metavar="WORKERS", help="real solo workers")
    parser.add_argument("--endurance", type=int, default=0, metavar="SNAPSHOTS")
    options = parser.parse_args()
    with demo_project() as token:
        for kind in options.only:
            if options.rounds:
                compare(kind, token, options.rounds)
        for kind in options.only:
            if options.solo:
                solo(kind, options.solo)
        if options.scale:
            grow(options.scale, max(options.rounds, 9))
        for kind in options.only:
            if options.endurance and kind != "filesystem":
                endure(kind, options.endurance)


if __name__ == "__main__":
    main()
