"""Parts of the benchmarks: the demo project under gunicorn, Flower, fleets, /proc, tables.

The brokers and workers are those of the tests. Linux only, for ``/proc``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.db import connection

from celery_stats.control.broker import broker_for
from celery_stats.control.question import FIELDS
from tests.brokers import AMQP_URL, Broker, RedisServer
from tests.processes import ROOT, Process, free_port, wait_until

CORES = os.cpu_count() or 1
PATH = "/api/celery-stats/"


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
    """A place of its own on a broker, on a private server where that is Redis."""
    server = RedisServer() if kind == "redis" else None
    try:
        url = {"redis": server and f"redis://127.0.0.1:{server.port}/0", "amqp": AMQP_URL}
        broker = Broker(kind, url.get(kind) or "filesystem://")
        try:
            yield broker
        finally:
            broker_for(broker.app).close()
            broker.close()
    finally:
        if server is not None:
            server.stop()


def is_whole(answers: Any, workers: int) -> bool:
    """Whether as many workers as there are answered each of the six commands."""
    return all(len(answers[name] or ()) == workers for name in FIELDS)


class Web(Process):
    """gunicorn with the demo project; its workers have loaded it and served nothing yet."""

    def __init__(self, broker: Broker, token: str, *options: str, workers: int = 1) -> None:
        self.token = token
        self.port = free_port()
        config = broker.folder / "gunicorn.py"
        config.write_text(
            "from project import gunicorn\n"
            "from project.gunicorn import *\n"
            "def post_worker_init(worker):\n"
            "    gunicorn.post_worker_init(worker)\n"
            "    print('loaded', flush=True)\n"
        )
        super().__init__(
            [
                *(sys.executable, "-m", "gunicorn", "project.wsgi", "--config", str(config)),
                *("--bind", f"127.0.0.1:{self.port}", "--workers", str(workers)),
                *("--keep-alive", "60", *options),
            ],
            log=broker.folder / f"web-{self.port}.log",
            env={
                "CELERY_BROKER_URL": broker.url,
                "CELERY_CONTROL_EXCHANGE": broker.namespace,
                "CELERY_EVENT_EXCHANGE": str(broker.config["event_exchange"]),
                "CELERY_BROKER_TRANSPORT": broker.config.get("broker_transport", ""),
                "CELERY_BROKER_TRANSPORT_OPTIONS": json.dumps(
                    broker.config.get("broker_transport_options", {})
                ),
            },
        )
        wait_until(lambda: self._loaded(workers), seconds=30, what=f"gunicorn: {self.log}")

    def _loaded(self, workers: int) -> bool:
        text = self.log.read_text(errors="replace")
        if self.popen.poll() is not None:
            raise AssertionError(f"gunicorn ended:\n{text}")
        return text.count("loaded\n") == workers

    def client(self, query: str = "", expects: int = 200) -> Client:
        headers = {"Authorization": f"Token {self.token}"}
        return Client(self.port, f"{PATH}{query}", headers, expects)


class Flower(Process):
    """Flower on the same broker."""

    INSTALLED = find_spec("flower") is not None

    def __init__(self, broker: Broker) -> None:
        self.port = free_port()
        super().__init__(
            [
                *(sys.executable, "-m", "celery", "--app", "tests.celery_app", "flower"),
                *("--address=127.0.0.1", f"--port={self.port}"),
            ],
            log=broker.folder / "flower.log",
            env={
                "CELERY_STATS_TEST_CONFIG": broker.config_json,
                "FLOWER_UNAUTHENTICATED_API": "true",
            },
        )
        self.client = Client(self.port, "/api/workers?refresh=1", {})
        wait_until(self._answers, seconds=30, what=f"Flower: {self.log}")

    def _answers(self) -> bool:
        with suppress(OSError):
            self.client.get()
            return True
        self.client.close()
        return False


class Client:
    """A keep-alive connection that asks one thing."""

    def __init__(self, port: int, path: str, headers: dict[str, str], expects: int = 200) -> None:
        self.path, self.headers, self.expects = path, headers, expects
        self.connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self.close = self.connection.close

    def get(self) -> Any:
        """Return the decoded JSON body."""
        return json.loads(self.read())

    def read(self) -> bytes:
        """Return the body."""
        self.connection.request("GET", self.path, headers=self.headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != self.expects:
            raise AssertionError(f"{response.status}: {body[:200]!r}")
        return body


class Fleet:
    """Simulated workers, in as many processes as there are cores."""

    def __init__(self, broker: Broker, count: int, *, with_app: bool = False) -> None:
        shares = [count // CORES + (n < count % CORES) for n in range(CORES)]
        self._popens = [
            subprocess.Popen(
                [*(sys.executable, "-m", "tests.simulated"), broker.config_json, str(n), f"p{i}w"]
                + ["app"] * with_app,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i, n in enumerate(shares)
        ]

    def __enter__(self) -> Fleet:
        for popen in self._popens:
            assert popen.stdout is not None
            if popen.stdout.readline() != "ready\n":
                self.__exit__()
                raise AssertionError("the simulated fleet did not start")
        return self

    def __exit__(self, *_: object) -> None:
        for popen in self._popens:
            popen.terminate()
        for popen in self._popens:
            popen.communicate()

    def cpu(self) -> float:
        return sum(cpu_seconds(popen.pid) for popen in self._popens)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def connections(pid: int, port: int) -> int:
    """TCP connections of a process to a port of this machine."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.add(str(link.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in held for row in rows)


def status(pid: int, name: str) -> int:
    """A number of ``/proc/<pid>/status``; memory is in kB."""
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


def verdict(figure: float, bound: float) -> str:
    return "PASS" if figure <= bound else "over"
