"""The cost of a scrape beside that of other requests to the same endpoint.

    python -m benchmarks.scrape
    python -m benchmarks.scrape --rounds 50 --simulated 1000

Starts a private Redis and gunicorn with the demo project, first with two real prefork workers,
then with simulated ones. A scrape, a GET of the JSON and a GET that is refused are sent in turns,
so that all of them meet the same load of the machine. Everything shares the machine's cores, so
quote ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks.support import (
    Client,
    Fleet,
    Web,
    children,
    cpu_seconds,
    demo_project,
    is_whole,
    ms,
    place,
    show,
)

#: Requests of one kind that are sent before the next kind has its turn. The CPU time of a process
#: is counted in steps of 10 ms, which is more than one request takes.
BATCH = 10


def scrape(client: Client, workers: int) -> None:
    if b"\ncelery_snapshot_workers_answered %d.0\n" % workers not in client.read():
        raise AssertionError("a worker did not answer the scrape")


def get(client: Client, workers: int) -> None:
    if not is_whole(client.get(), workers):
        raise AssertionError("a worker did not answer the GET")


def compare(title: str, web: Web, workers: int, rounds: int) -> None:
    """Print the time and the server's CPU time of each kind of request."""
    kinds: dict[str, Callable[[], object]] = {
        "scrape": partial(scrape, web.client("?format=openmetrics"), workers),
        "GET of the JSON": partial(get, web.client(), workers),
        "GET refused with 400": web.client("?field=unknown", expects=400).read,
    }
    (server,) = children(web.pid)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    cpu = dict.fromkeys(kinds, 0.0)
    for send in kinds.values():
        send()
    for _ in range(rounds):
        for name, send in kinds.items():
            before = cpu_seconds(server)
            for _ in range(BATCH):
                started = time.monotonic()
                send()
                times[name].append(time.monotonic() - started)
            cpu[name] += cpu_seconds(server) - before
    elapsed = {name: median(taken) for name, taken in times.items()}
    per_request = {name: spent / (rounds * BATCH) for name, spent in cpu.items()}
    rows = [
        [
            name,
            ms(elapsed[name]),
            f"{elapsed[name] / elapsed['GET of the JSON']:.2f}",
            ms(per_request[name]),
            f"{per_request[name] / per_request['GET of the JSON']:.2f}",
        ]
        for name in kinds
    ]
    header = ["request", "median", "of the JSON", "server CPU", "of the JSON"]
    show(f"{title}, {rounds * BATCH} requests of each kind", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help=f"of {BATCH} requests of each kind")
    parser.add_argument("--simulated", type=int, default=100, metavar="WORKERS")
    options = parser.parse_args()
    with demo_project() as token:
        with ExitStack() as stack:
            broker = stack.enter_context(place("redis"))
            broker.fleet("one@bench", "two@bench", concurrency=2, with_app=True)
            web = Web(broker, token)
            stack.callback(web.stop)
            compare("two real workers", web, 2, options.rounds)
        with ExitStack() as stack:
            broker = stack.enter_context(place("redis"))
            stack.enter_context(Fleet(broker, options.simulated, with_app=True))
            web = Web(broker, token)
            stack.callback(web.stop)
            title = f"{options.simulated} simulated workers"
            compare(title, web, options.simulated, options.rounds)


if __name__ == "__main__":
    main()
