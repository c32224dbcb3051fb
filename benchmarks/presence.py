"""Who is there: every fleet's answer, how long it took, and whether it is true.

    python -m benchmarks.presence
    python -m benchmarks.presence --only redis --long 0
    python -m benchmarks.presence --only amqp --newcomers 200

A cell holds the median time of a snapshot, who was named as missing, and whether the answer was
true. What a process's first question costs, and the first one after a pause, has its own rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any

from benchmarks.support import KINDS, ms, place, show
from celery_stats.shapes import FIELDS
from tests.asking import take
from tests.beat import beat
from tests.brokers import Broker

NOTHING: Mapping[str, Any] = {}
ONE, BOTH = ("one@b",), ("one@b", "two@b")


@contextmanager
def subscriber(broker: Broker) -> Iterator[None]:
    """Subscribe to everything, as a tool for debugging does."""
    with broker.app.connection_for_write() as connection:
        tool = connection.default_channel.client.pubsub()
        tool.psubscribe("*")
        tool.get_message(timeout=2)
        yield
        tool.close()


def do(*actions: tuple[int, str]) -> Callable[[Broker], None]:
    """Return what calls methods of the broker's workers, by their number."""

    def change(broker: Broker) -> None:
        for number, method in actions:
            getattr(broker.workers[number], method)()

    return change


KILLED = {"change": do((1, "kill")), "missing": BOTH[1:]}
TWIN = {
    "names": (*ONE, *ONE, "dead@b"),
    "change": do((2, "kill"), (0, "stop")),
    "here": ONE,
    "kinds": ("redis",),
}

#: The arguments of :func:`cell`. ``kinds`` has the brokers to which a situation applies.
SITUATIONS: dict[str, dict[str, Any]] = {
    "a process's first question": {"names": BOTH, "known": False, "runs": 1},
    "quiet": {},
    "after a pause of 15 s": {"pause": 15.0, "runs": 1},
    "after a pause of 60 s": {"pause": 60.0, "runs": 1},
    "celery beat with remote control": {"beside": beat},
    "a subscriber that is no worker": {"beside": subscriber, "kinds": ("redis",)},
    "two of one name, one stopped, a stale name: by name": {**TWIN, "asked": ONE},
    "… all": {**TWIN, "missing": ("dead@b",)},
    "asked before the workers are up, then again": {
        "names": (),
        "change": lambda broker: broker.fleet(*BOTH),
        "runs": 1,
    },
    "a table local to the process": {
        "config": {"broker_transport": "tests.local_table:Transport"},
        "runs": 3,
        "kinds": ("filesystem",),
    },
    "frozen worker": {**KILLED, "change": do((1, "freeze")), "here": ONE, "runs": 3},
    "killed worker": {**KILLED, "here": ONE, "forgotten_on": ("amqp",)},
    "killed worker, by name": {**KILLED, "here": (), "asked": BOTH[1:]},
    "worker stopped in order": {"change": do((1, "stop")), "here": ONE},
    "worker just started": {
        "change": lambda broker: broker.fleet("three@b"),
        "here": (*BOTH, "three@b"),
    },
}


def cell(
    kind: str,
    names: Sequence[str] = BOTH,  # the workers to start
    known: bool = True,  # whether the asker has asked them before
    config: Mapping[str, Any] = NOTHING,  # what differs in the asker's Celery app
    change: Callable[[Broker], object] = id,  # what happens then
    pause: float = 0.0,  # seconds until the snapshots are taken
    beside: Callable[[Broker], Any] = nullcontext,  # what is there meanwhile
    asked: tuple[str, ...] = (),  # the workers to ask by name
    here: Sequence[str] = BOTH,  # those that can answer
    missing: Sequence[str] = (),  # those that must be named as missing
    forgotten_on: Sequence[str] = (),  # brokers on which they need not be named
    runs: int = 15,  # snapshots; with more than one, another is taken before them
) -> str:
    """Return how long snapshots took, who was missing, and whether that is true."""
    times, seen, true = [], set(), True
    with place(kind) as broker:
        app = broker.client(**config)
        broker.fleet(*names)
        if known:
            take(app, 1.0, 5.0)
        change(broker)
        time.sleep(pause)
        with beside(broker):
            if runs > 1:
                take(app, 1.0, 5.0)
            for _ in range(runs):
                started = time.monotonic()
                snapshot = take(app, 1.0, 5.0, workers=asked)
                times.append(time.monotonic() - started)
                seen |= set(snapshot.missing)
                true &= all(set(snapshot.answers[field] or ()) == set(here) for field in FIELDS)
                true &= set(snapshot.missing) == set(() if kind in forgotten_on else missing)
    found = ", ".join(sorted(name.partition("@")[0] for name in seen)) or "nobody"
    return f"{ms(median(times))}, {found}, {'true' if true else 'UNTRUE'}"


def newcomers(kind: str, count: int) -> None:
    """Start workers one after another; ask as soon as each is ready, and once more."""
    heard = [0, 0]
    with place(kind) as broker:
        broker.fleet(*BOTH)
        take(broker.app, 1.0, 5.0)
        for number in range(count):
            worker = broker.start(f"new{number}@b")
            while " ready." not in worker.log.read_text(errors="replace"):
                time.sleep(0.001)
            for turn in (0, 1):
                snapshot = take(broker.app, 1.0, 5.0)
                heard[turn] += worker.name in (snapshot.answers["stats"] or {})
                time.sleep(0.2)
            worker.stop()
    found = f"{heard[0]} in the first snapshot after they were ready, {heard[1]} in the second"
    print(f"{kind}: of {count} workers that were started beside two others, {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="the brokers")
    parser.add_argument("--long", type=float, default=60, help="leave out longer pauses")
    parser.add_argument("--newcomers", type=int, default=0, metavar="WORKERS")
    options = parser.parse_args()
    if options.newcomers:
        for kind in options.only:
            newcomers(kind, options.newcomers)
        return
    rows = []
    for name, arguments in SITUATIONS.items():
        row = [name]
        for kind in options.only:
            if kind not in arguments.get("kinds", KINDS):
                row.append("does not apply")
            elif arguments.get("pause", 0) > options.long:
                row.append("left out")
            else:
                row.append(cell(kind, **{k: v for k, v in arguments.items() if k != "kinds"}))
        rows.append(row)
        print(row, flush=True)
    show("median of a snapshot, who was named as missing, true or not", ["", *options.only], rows)


if __name__ == "__main__":
    main()
