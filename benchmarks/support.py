"""Shared parts of the benchmarks: brokers, gunicorn with the demo project, fleets, tables.

The brokers and workers are those of the tests. Linux only, because it reads ``/proc``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import django
from celery import Celery
from django.core.management import call_command
from django.db import connection

from celery_stats.control.broker import connections_for
from celery_stats.control.snapshot import Snapshot
from celery_stats.shapes import FIELDS
from tests import asking
from tests.brokers import AMQP_URL, Broker, RedisServer
from tests.processes import ROOT, Process, free_port, wait_until

CORES = os.cpu_count() or 1
PATH = "/api/celery-stats/"
#: The kinds of brokers that are there.
KINDS = ("redis", *(["amqp"] if AMQP_URL else []), "filesystem")


@contextmanager
def demo_project() -> Iterator[str]:
    """Set up the demo project on a database of its own; yield a support user's token."""
    with tempfile.TemporaryDirectory(prefix="celery-stats-bench-") as folder:
        os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
        os.environ["DJANGO_DATABASE"] = f"{folder}/db.sqlite3"
        os.environ["DJANGO_SECRET_KEY"] = "benchmarks"
        django.setup()
        from rest_framework.authtoken.models import Token

        from project.accounts.models import User

        call_command("migrate", verbosity=0)
        user = User.objects.create_user("support", is_support=True)
        token = Token.objects.create(user=user)
        connection.close()
        yield str(token.key)


@contextmanager
def place(kind: str) -> Iterator[Broker]:
    """A place of its own on a broker, on a private server if that is Redis."""
    server = RedisServer() if kind == "redis" else None
    try:
        url = {"redis": server and f"redis://127.0.0.1:{server.port}/0", "amqp": AMQP_URL}
        broker = Broker(kind, url.get(kind) or "filesystem://")
        try:
            yield broker
        finally:
            connections_for(broker.app).close()
            broker.close()
    finally:
        if server is not None:
            server.stop()


def take(app: Celery, workers: int, timeout: float = 1.0) -> Snapshot:
    """Take a snapshot, which must hold so many workers under every key."""
    snapshot = asking.take(app, timeout, 20 * timeout)
    check_whole(snapshot.answers, workers)
    return snapshot


def check_whole(answers: Any, workers: int) -> None:
    if not all(len(answers[field] or ()) == workers for field in FIELDS):
        raise AssertionError(f"not {workers} workers under every key: {answers!s:.300}")


def make_client(port: int, token: str, query: str = "", expects: int = 200) -> Callable[[], bytes]:
    """Return a function that asks over a connection of its own and returns the body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Token {token}"}

    def get() -> bytes:
        connection.request("GET", f"{PATH}{query}", headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != expects:
            raise AssertionError(f"{response.status}: {body[:200]!r}")
        return body

    return get


class Web(Process):
    """gunicorn with the demo project."""

    def __init__(self, broker: Broker, token: str, *options: str) -> None:
        self.token = token
        self.port = free_port()
        transport = broker.config.get("broker_transport_options", {})
        super().__init__(
            [
                *(sys.executable, "-m", "gunicorn", "project.wsgi", "--keep-alive", "60"),
                *("--config", "python:project.gunicorn", "--bind", f"127.0.0.1:{self.port}"),
                *options,
            ],
            log=broker.folder / f"web-{self.port}.log",
            env={
                "CELERY_BROKER_URL": broker.url,
                "CELERY_CONTROL_EXCHANGE": broker.namespace,
                "CELERY_EVENT_EXCHANGE": str(broker.config["event_exchange"]),
                "CELERY_BROKER_TRANSPORT": broker.config.get("broker_transport", ""),
                "CELERY_BROKER_TRANSPORT_OPTIONS": json.dumps(transport),
            },
        )
        wait_until(self._answers, seconds=30, what=f"gunicorn: {self.log}")

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text()
        with suppress(ConnectionError):
            self.client("?field=unknown", expects=400)()
            return True
        return False

    def client(self, query: str = "", expects: int = 200) -> Callable[[], bytes]:
        return make_client(self.port, self.token, query, expects)


@contextmanager
def simulated(broker: Broker, count: int) -> Iterator[None]:
    """Simulated workers with the app, in as many processes as there are cores."""
    command = [sys.executable, "-m", "tests.simulated", broker.config_json]
    with ExitStack() as stack:
        processes = []
        for number in range(CORES):
            share = str(count // CORES + (number < count % CORES))
            args = [*command, share, f"p{number}w", "app"]
            process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.terminate)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield


def measure(
    ways: Mapping[str, Callable[[], object]],
    turns: int,
    clock: Callable[[], Sequence[float]] = lambda: [time.monotonic()],
) -> dict[str, list[list[float]]]:
    """Call each way in turn, so that a machine that is busy for a while slows down all alike.

    Returns:
        What each call took, by name of the way: one list for each figure of ``clock``.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, run in ways.items():
            before = clock()
            run()
            taken[name].append([end - start for start, end in zip(before, clock(), strict=True)])
    return {name: list(map(list, zip(*rows, strict=True))) for name, rows in taken.items()}


def cpu_seconds(*pids: int) -> float:
    """Return the CPU seconds of processes since their start."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def status(pid: int, name: str) -> int:
    """Return a number of ``/proc/<pid>/status``; memory is in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        figures = map(str.rjust, cells[1:], widths[1:])
        return f"| {' | '.join([cells[0].ljust(widths[0]), *figures])} |"

    rule = [("-" * w if not i else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    print(f"\n{title}\n", line(header), line(rule), *map(line, rows), sep="\n", flush=True)


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"
