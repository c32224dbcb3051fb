"""The cost of a scrape beside that of other requests to the same endpoint.

    python -m benchmarks.scrape

Starts a private Redis and gunicorn with the demo project, first with two real prefork workers,
then with simulated ones. The kinds of requests take turns, so that all of them meet the same load
of the machine. Everything shares the machine's cores, so quote ratios, not milliseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from benchmarks.support import (
    Web,
    check_whole,
    children,
    cpu_seconds,
    demo_project,
    measure,
    ms,
    place,
    show,
    simulated,
)

#: Requests of one kind that are sent before the next kind has its turn. The CPU time of a process
#: is counted in steps of 10 ms, which is more than one request takes.
BATCH, TURNS = 10, 20
JSON = "GET of the JSON"


def send_batch(send: Callable[[], bytes]) -> None:
    for _ in range(BATCH):
        send()


def compare(title: str, web: Web, workers: int) -> None:
    """Print the time and the server's CPU time of each kind of request."""
    requests = {
        "scrape": web.client("?format=openmetrics"),
        JSON: web.client(),
        "GET refused with 400": web.client("?field=unknown", expects=400),
    }
    assert b"\ncelery_snapshot_workers_answered %d.0\n" % workers in requests["scrape"]()
    check_whole(json.loads(requests[JSON]()), workers)
    (server,) = children(web.pid)
    batches = {name: partial(send_batch, send) for name, send in requests.items()}
    found = measure(batches, TURNS, lambda: (time.monotonic(), cpu_seconds(server)))
    costs = {name: (median(took), sum(cpu) / TURNS) for name, (took, cpu) in found.items()}
    rows = []
    for name, cost in costs.items():
        of_json = [f"{own / other:.2f}" for own, other in zip(cost, costs[JSON], strict=True)]
        rows.append([name, ms(cost[0] / BATCH), of_json[0], ms(cost[1] / BATCH), of_json[1]])
    header = ["request", "median", "of the JSON", "server CPU", "of the JSON"]
    show(f"{title}, {TURNS * BATCH} requests of each kind", header, rows)


def main() -> None:
    with demo_project() as token:
        with place("redis") as broker, Web(broker, token) as web:
            broker.fleet("one@bench", "two@bench", concurrency=2, with_app=True)
            compare("two real workers", web, 2)
        with place("redis") as broker, simulated(broker, 100), Web(broker, token) as web:
            compare("100 simulated workers", web, 100)


if __name__ == "__main__":
    main()
