"""Who is there: every fleet's answer, how long it took, and whether it is true.

    python -m benchmarks.presence
    python -m benchmarks.presence --only redis --long 0
    python -m benchmarks.presence --newcomers 200

Starts all it needs, as ``benchmarks.round_trip`` does. A cell holds the median time of a
snapshot, who was named as missing, and whether the answer was true. What a process's first
question costs, and the first one after something changed, stands in rows of their own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from celery import Celery

from benchmarks.support import ms, place, show
from celery_stats.control.question import FIELDS, Options, Question
from celery_stats.control.snapshot import Snapshot, take_snapshot
from tests.beat import beat
from tests.brokers import AMQP_URL, Broker

RUNS = 15


class Fleet:
    """Two workers on one broker, and what an asker of its own sees of them."""

    def __init__(self, broker: Broker, app: Celery) -> None:
        self.broker, self.app = broker, app

    def ask(self, *workers: str) -> Snapshot:
        return take_snapshot(Question(workers=workers), Options(self.app))

    def cell(
        self,
        here: set[str],
        missing: set[str] | None = None,
        *,
        runs: int = RUNS,
        workers: tuple[str, ...] = (),
        before: Callable[[], Any] = lambda: None,
    ) -> str:
        """Ask several times; say how long it took, who was missing, and whether that is true."""
        times, seen, true = [], set(), True
        for _ in range(runs):
            before()
            started = time.monotonic()
            snapshot = self.ask(*workers)
            times.append(time.monotonic() - started)
            seen |= set(snapshot.missing)
            true &= all(set(snapshot.answers[name] or ()) == here for name in FIELDS)
            true &= set(snapshot.missing) == (missing or set())
        names = ", ".join(sorted(name.partition("@")[0] for name in seen)) or "nobody"
        return f"{ms(median(times))}, {names}, {'true' if true else 'UNTRUE'}"


@contextmanager
def fleet(kind: str, *names: str, learn: bool = True) -> Iterator[Fleet]:
    """Start workers; with ``learn``, an asker that has asked once."""
    with place(kind) as broker:
        broker.fleet(*(names or ("one@b", "two@b")))
        found = Fleet(broker, broker.app)
        if learn:
            found.ask()
        yield found


BOTH = {"one@b", "two@b"}


def first(kind: str, long: float) -> str:
    with fleet(kind, learn=False) as f:
        return f.cell(BOTH, runs=1)


def quiet(kind: str, long: float) -> str:
    with fleet(kind) as f:
        return f.cell(BOTH)


def pause(seconds: float) -> Callable[[str, float], str]:
    def after(kind: str, long: float) -> str:
        if seconds > long:
            return "left out"
        with fleet(kind) as f:
            return f.cell(BOTH, runs=1, before=lambda: time.sleep(seconds))

    return after


def with_beat(kind: str, long: float) -> str:
    with fleet(kind) as f, beat(f.broker):
        f.ask()
        return f.cell(BOTH)


def subscriber(kind: str, long: float) -> str:
    if kind != "redis":
        return "does not apply"
    with fleet(kind) as f, ExitStack() as stack:
        connection = stack.enter_context(f.broker.app.connection_for_write())
        tool = connection.default_channel.client.pubsub()
        stack.callback(tool.close)
        tool.psubscribe("*")
        tool.get_message(timeout=2)
        f.ask()
        return f.cell(BOTH)


def twin(kind: str, long: float) -> str:
    if kind != "redis":
        return "does not apply"
    with fleet(kind, "one@b", "one@b", "dead@b") as f:
        first_one, _second, dead = f.broker.workers
        dead.kill()
        first_one.stop()
        return f.cell({"one@b"}, workers=("one@b",))


def twin_all(kind: str, long: float) -> str:
    if kind != "redis":
        return "does not apply"
    with fleet(kind, "one@b", "one@b", "dead@b") as f:
        first_one, _second, dead = f.broker.workers
        dead.kill()
        first_one.stop()
        return f.cell({"one@b"}, {"dead@b"})


def before_workers(kind: str, long: float) -> str:
    with place(kind) as broker:
        f = Fleet(broker, broker.app)
        f.ask()
        broker.fleet("one@b", "two@b")
        return f.cell(BOTH, runs=1)


def local_table(kind: str, long: float) -> str:
    if kind != "filesystem":
        return "does not apply"
    with place(kind) as broker:
        broker.fleet("one@b", "two@b")
        app = broker.client(broker_transport="tests.local_table:Transport")
        return Fleet(broker, app).cell(BOTH, runs=3)


def frozen(kind: str, long: float) -> str:
    with fleet(kind) as f:
        f.broker.workers[1].freeze()
        return f.cell({"one@b"}, {"two@b"}, runs=3)


def killed(kind: str, long: float) -> str:
    with fleet(kind) as f:
        f.broker.workers[1].kill()
        f.ask()
        missing = set() if kind == "amqp" else {"two@b"}
        return f.cell({"one@b"}, missing)


def killed_by_name(kind: str, long: float) -> str:
    with fleet(kind) as f:
        f.broker.workers[1].kill()
        f.ask()
        return f.cell(set(), {"two@b"}, workers=("two@b",))


def stopped(kind: str, long: float) -> str:
    with fleet(kind) as f:
        f.broker.workers[1].stop()
        return f.cell({"one@b"})


def started(kind: str, long: float) -> str:
    with fleet(kind) as f:
        f.broker.fleet("three@b")
        f.ask()
        return f.cell({*BOTH, "three@b"})


SITUATIONS: dict[str, Callable[[str, float], str]] = {
    "a process's first question": first,
    "quiet": quiet,
    "after a pause of 15 s": pause(15),
    "after a pause of 60 s": pause(60),
    "celery beat with remote control": with_beat,
    "a subscriber that is no worker": subscriber,
    "two of one name, one stopped, a stale name: by name": twin,
    "… all": twin_all,
    "asked before the workers are up, then again": before_workers,
    "a table local to the process": local_table,
    "frozen worker": frozen,
    "killed worker": killed,
    "killed worker, by name": killed_by_name,
    "worker stopped in order": stopped,
    "worker just started": started,
}


def newcomers(kind: str, count: int) -> None:
    """Start workers one after another; ask as soon as each is ready, and once more."""
    heard = [0, 0]
    with fleet(kind) as f:
        for number in range(count):
            name = f"new{number}@b"
            worker = f.broker.start(name)
            while " ready." not in worker.log.read_text(errors="replace"):
                time.sleep(0.001)
            for turn in (0, 1):
                heard[turn] += name in (f.ask().answers["stats"] or {})
                if turn == 0:
                    time.sleep(0.2)
            worker.stop()
    show(
        f"{kind}: {count} workers started one after another beside two, asked when ready",
        ["answer", "holds the new worker"],
        [["first", str(heard[0])], ["second", str(heard[1])]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ["redis", *(["amqp"] if AMQP_URL else []), "filesystem"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="the brokers")
    parser.add_argument("--long", type=float, default=60, help="leave out longer pauses")
    parser.add_argument("--newcomers", type=int, default=0, metavar="WORKERS")
    options = parser.parse_args()
    if options.newcomers:
        for kind in options.only:
            newcomers(kind, options.newcomers)
        return
    rows = []
    for name, situation in SITUATIONS.items():
        rows.append([name, *(situation(kind, options.long) for kind in options.only)])
        print(rows[-1], flush=True)
    show("median of a snapshot, who was named as missing, true or not", ["", *options.only], rows)


if __name__ == "__main__":
    main()
