"""Many callers at once, for a long time: the endpoint under gunicorn, beside the reference.

    python -m benchmarks.load
    python -m benchmarks.load --requests 2000 --only gthread-1x64 --reference 0

For each kind of web server: 64 keep-alive clients on loopback, 10 000 requests in all,
two real workers on a private Redis. Every answer has to be a 200 that holds both workers
under all six keys. Then the reference: six inspect() calls from 16 threads of one
process, which is killed after a minute. The clients use the same cores as the server and
the workers, so the times are those of a crowded machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.util import find_spec
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles

from benchmarks.support import (
    Client,
    Web,
    children,
    connections,
    cpu_seconds,
    demo_project,
    descriptors,
    is_whole,
    ms,
    place,
    show,
    status,
)
from tests.brokers import Broker
from tests.processes import Process

WORKERS = ("one@bench", "two@bench")
CLIENTS = 64

#: Requests after which the servers' first state is noted.
WARM = 500

#: Seconds that one server's load may take.
PATIENCE = 300

#: gunicorn's options.
SERVERS = {
    "gthread-1x64": ["--workers", "1", "--threads", "64"],
    "gthread-2x8": ["--workers", "2", "--threads", "8"],
    "gevent-1": ["--workers", "1", "--worker-class", "gevent"],
}

#: Six calls in each of 16 threads; says of each thread when it has all answers.
REFERENCE = """
import threading
from tests.celery_app import app

def six_calls():
    inspect = app.control.inspect()
    for name in ("active", "scheduled", "reserved", "revoked", "query_task", "stats"):
        getattr(inspect, name)()
    print("finished", flush=True)

for _ in range({threads}):
    threading.Thread(target=six_calls).start()
"""
REFERENCE_THREADS = 16


@dataclass
class Asked:
    """What came of a number of requests."""

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0
    cpu: float = 0

    def __iadd__(self, other: Asked) -> Asked:
        self.times += other.times
        self.errors += other.errors
        self.seconds += other.seconds
        self.cpu += other.cpu
        return self

    def ask(self, client: Client, numbers: Iterator[int]) -> None:
        for _ in numbers:  # taking the next one is atomic: the threads share the work
            started = time.monotonic()
            try:
                answers = client.get()
            except (OSError, HTTPException, ValueError, AssertionError) as exc:
                self.errors.append(f"{type(exc).__name__}: {exc}")
                client.close()
                continue
            self.times.append(time.monotonic() - started)
            if not is_whole(answers, len(WORKERS)):
                self.errors.append("not whole")


def clients(control: Connection, web: Web) -> None:
    """A process of many clients: takes numbers of requests, sends back what came of them."""
    open_clients = [web.client() for _ in range(CLIENTS)]
    while count := control.recv():
        asked, numbers = Asked(), iter(range(count))
        started = time.monotonic(), time.process_time()
        threads = [
            threading.Thread(target=asked.ask, args=(client, numbers)) for client in open_clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked.seconds, asked.cpu = time.monotonic() - started[0], time.process_time() - started[1]
        control.send(asked)


@contextmanager
def load(web: Web) -> Iterator[Connection]:
    near, far = Pipe()
    process = get_context("fork").Process(target=clients, args=(far, web), daemon=True)
    process.start()
    far.close()
    try:
        yield near
        near.send(0)
        process.join(10)
    finally:
        process.kill()
        process.join()


def ask(control: Connection, count: int) -> Asked:
    control.send(count)
    if not control.poll(PATIENCE):
        raise AssertionError(f"{count} requests took more than {PATIENCE} s")
    answer: Asked = control.recv()
    return answer


def published(broker: Broker) -> int:
    """Messages published so far: six and a head count for a snapshot, and a few heartbeats."""
    with broker.app.connection_for_write() as connection:
        stats = connection.default_channel.client.info("commandstats")
    return int(stats.get("cmdstat_publish", {"calls": 0})["calls"])


def footprint(web: Web, redis_port: int) -> dict[str, float]:
    """What may grow, over all of the server's worker processes."""
    pids = children(web.pid)
    return {
        "RSS, MB": sum(status(pid, "VmRSS") for pid in pids) / 1024,
        "descriptors": sum(descriptors(pid) for pid in pids),
        "threads": sum(status(pid, "Threads") for pid in pids),
        "broker connections": sum(connections(pid, redis_port) for pid in pids),
    }


def cpu(web: Web) -> float:
    return sum(map(cpu_seconds, children(web.pid)))


def run(server: str, token: str, requests: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Load one kind of server; return its rows of the two tables, and the errors."""
    with ExitStack() as stack:
        broker = stack.enter_context(place("redis"))
        broker.fleet(*WORKERS)
        port = int(broker.url.rpartition(":")[2].partition("/")[0])
        web = Web(broker, token, *SERVERS[server])
        stack.callback(web.stop)
        control = stack.enter_context(load(web))
        errors = ask(control, WARM).errors
        early = footprint(web, port)
        lone = []
        for _ in range(3):
            before = published(broker)
            errors += ask(control, 1).errors
            lone.append(published(broker) - before)
        before, spent = published(broker), cpu(web)
        asked = ask(control, requests // 2 - WARM)
        middle = footprint(web, port)
        asked += ask(control, requests - requests // 2)
        # The smallest: a heartbeat may have been counted in.
        snapshots = (published(broker) - before) / min(lone)
        spent = cpu(web) - spent
        late = footprint(web, port)
    marks = (early, middle, late)
    errors += asked.errors
    times = asked.times
    row = [
        server,
        f"{requests:,}",
        f"{len(errors):,}",
        f"{len(times) / asked.seconds:,.0f}/s",
        ms(median(times)),
        ms(quantiles(times, n=20)[-1]),
        ms(max(times)),
        f"{snapshots:,.0f}",
        f"{len(times) / snapshots:.1f}",
        f"{1e3 * spent / len(times):.1f} ms",
        f"{1e3 * asked.cpu / len(times):.1f} ms",
    ]
    sizes = [
        [f"{server}: {what}", *(f"{found[what]:,.4g}" for found in marks), f"{more:+.3g}"]
        for what in early
        for more in [late[what] - early[what]]
    ]
    return row, sizes, errors


def reference(seconds: float) -> list[str]:
    """Let threads call inspect() until they are killed; return a row of the table."""
    with place("redis") as broker:
        broker.fleet(*WORKERS)
        process = Process(
            [sys.executable, "-c", REFERENCE.format(threads=REFERENCE_THREADS)],
            log=broker.folder / "reference.log",
            env={"CELERY_STATS_TEST_CONFIG": broker.config_json},
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(seconds)
        finally:
            process.kill()
        text = process.log.read_text()
    unfinished = REFERENCE_THREADS - text.count("finished")
    row = [f"reference, killed after {seconds:g} s", str(REFERENCE_THREADS), str(unfinished)]
    return row + ["-"] * 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    servers = [name for name in SERVERS if name != "gevent-1" or find_spec("gevent")]
    parser.add_argument("--only", nargs="*", choices=servers, default=servers, help="servers")
    parser.add_argument("--requests", type=int, default=10_000, help="for each server")
    parser.add_argument(
        "--reference", type=float, default=60, metavar="SECONDS", help="0 leaves it out"
    )
    options = parser.parse_args()
    requests = max(options.requests, 4 * WARM)
    rows, sizes, errors = [], [], []
    with demo_project() as token:
        for server in options.only:
            row, grown, failed = run(server, token, requests)
            rows.append(row)
            sizes += grown
            errors += failed
        if options.reference:
            rows.append(reference(options.reference))
    header = ["server", "requests", "failed", "rate", "p50", "p95", "worst"]
    header += ["snapshots", "requests for each", "server CPU for one", "clients' CPU for one"]
    show(f"{CLIENTS} clients, two prefork workers on Redis", header, rows)
    show(
        "What grows",
        ["", f"after {WARM}", f"after {requests // 2:,}", f"after {requests:,}", "more"],
        sizes,
    )
    for error in sorted(set(errors))[:10]:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
