"""Many callers at once, for a long time: the endpoint under gunicorn, beside the reference.

    python -m benchmarks.load

Of each kind of web server, 64 keep-alive clients ask 10 000 times in all for two real workers on a
private Redis. Every answer must be a 200 that holds both workers under all six keys. The reference
is six inspect() calls from each of 16 threads of one process. The clients use the same cores as
the server and the workers, so the times are those of a crowded machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from statistics import median, quantiles

from benchmarks.support import (
    Web,
    check_whole,
    children,
    demo_project,
    descriptors,
    ms,
    place,
    show,
    status,
)
from tests.brokers import Broker
from tests.processes import Process

WORKERS = ("one@bench", "two@bench")
CLIENTS, REQUESTS = 64, 10_000
#: Requests after which the server's first state is noted.
WARM = 500
#: gunicorn's options.
SERVERS = {
    "1 process with 64 threads": ["--threads", "64"],
    "2 processes with 8 threads": ["--workers", "2", "--threads", "8"],
    "1 process with gevent": ["--worker-class", "gevent"],
}
REFERENCE_THREADS, REFERENCE_SECONDS = 16, 60
#: Six calls in each thread; tells of each thread when it has all answers.
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


def ask(clients: list[Callable[[], bytes]], count: int) -> list[float]:
    """Share a number of requests between clients; return the seconds of each."""
    numbers = iter(range(count))  # Threads can share it, because taking the next one is atomic.

    def one_client(get: Callable[[], bytes]) -> list[float]:
        times = []
        for _ in numbers:
            started = time.monotonic()
            answers = json.loads(get())
            times.append(time.monotonic() - started)
            check_whole(answers, len(WORKERS))
        return times

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [taken for times in pool.map(one_client, clients) for taken in times]


def redis_info(broker: Broker) -> tuple[int, int]:
    """Return the messages that were published so far, and the connections to the server."""
    with broker.app.connection_for_write() as connection:
        client = connection.default_channel.client
        published = client.info("commandstats").get("cmdstat_publish", {"calls": 0})
        return int(published["calls"]), len(client.client_list())


def run(server: str, token: str) -> tuple[list[str], list[list[str]]]:
    """Load one kind of server; return its rows of the two tables."""
    with place("redis") as broker, Web(broker, token, *SERVERS[server]) as web:
        broker.fleet(*WORKERS, with_app=True)
        clients = [web.client() for _ in range(CLIENTS)]

        def footprint() -> dict[str, float]:
            pids = children(web.pid)
            return {
                "memory, MB": sum(status(pid, "VmRSS") for pid in pids) / 1024,
                "descriptors": sum(map(descriptors, pids)),
                "threads": sum(status(pid, "Threads") for pid in pids),
                "connections of the broker": redis_info(broker)[1],
            }

        def asked(count: int) -> tuple[list[float], int]:
            """Return the seconds of requests, and the messages that were published for them."""
            before = redis_info(broker)[0]
            return ask(clients, count), redis_info(broker)[0] - before

        ask(clients, WARM)
        early = footprint()
        # The least, because workers publish heartbeats now and then.
        for_one = min(asked(1)[1] for _ in range(3))
        times, published = asked(REQUESTS - WARM)
        late = footprint()
    latencies = median(times), quantiles(times, n=20)[-1], max(times)
    sizes = [[f"{server}: {what}", f"{early[what]:,.4g}", f"{late[what]:,.4g}"] for what in early]
    return [server, *map(ms, latencies), f"{published / for_one:,.0f}"], sizes


def reference() -> int:
    """Let threads call inspect(); return how many of them have ended."""
    with place("redis") as broker:
        broker.fleet(*WORKERS)
        process = Process(
            [sys.executable, "-c", REFERENCE.format(threads=REFERENCE_THREADS)],
            log=broker.folder / "reference.log",
            env={"CELERY_STATS_TEST_CONFIG": broker.config_json},
        )
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(REFERENCE_SECONDS)
        process.kill()
        return process.log.read_text().count("finished")


def main() -> None:
    with demo_project() as token:
        found = [run(server, token) for server in SERVERS]
    title = f"{CLIENTS} clients, two prefork workers on Redis, {REQUESTS:,} requests"
    show(title, ["server", "p50", "p95", "worst", "snapshots"], [row for row, _ in found])
    sizes = [size for _, several in found for size in several]
    show("What may grow", ["", f"after {WARM}", f"after {REQUESTS:,}"], sizes)
    ended = f"{reference()} of {REFERENCE_THREADS} threads"
    print(f"\nThe reference: {ended} ended within {REFERENCE_SECONDS} s")


if __name__ == "__main__":
    main()
