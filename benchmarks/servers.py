"""Many callers at once, under each web server that is installed, with and without a frozen worker.

    python -m benchmarks.servers

Two real workers on a private Redis; one of them is stopped by SIGSTOP for the second half. Each
caller asks once, all at the same time. ``TIMEOUT`` is one second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from threading import Barrier

from benchmarks.support import demo_project, make_client, ms, place, show
from tests.brokers import Broker
from tests.processes import ROOT, Process, free_port, wait_until

GUNICORN = "-m gunicorn project.wsgi --bind 127.0.0.1:{port} --timeout 60"
UWSGI = "{uwsgi} --module project.wsgi --http-socket 127.0.0.1:{port} --need-app --die-on-term"
GRANIAN = "-m granian --port {port} --interface"
#: Name, package and arguments of Python. ``asgi`` is a module that is made here.
SERVERS = {
    "gunicorn, 4 sync": ("gunicorn", f"{GUNICORN} --workers 4"),
    "gunicorn, 8 threads": ("gunicorn", f"{GUNICORN} --threads 8"),
    "gunicorn, gevent": ("gevent", f"{GUNICORN} --worker-class gevent"),
    "uWSGI, 4 processes": ("pyuwsgi", f"{UWSGI} --master --processes 4"),
    "uWSGI, 8 threads": ("pyuwsgi", f"{UWSGI} --threads 8"),
    "granian, WSGI": ("granian", f"{GRANIAN} wsgi project.wsgi:application"),
    "granian, ASGI": ("granian", f"{GRANIAN} asgi asgi:application"),
    "uvicorn": ("uvicorn", "-m uvicorn --port {port} asgi:application"),
    "daphne": ("daphne", "-m daphne -p {port} asgi:application"),
}
MODULES = {
    "asgi.py": "from django.core.asgi import get_asgi_application\n"
    "application = get_asgi_application()\n",
    "uwsgi_run.py": "import pyuwsgi\npyuwsgi.run()\n",
}


def installed(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(package)
    return ""


def start(broker: Broker, arguments: str, port: int) -> Process:
    """Start a server of the demo project."""
    for name, code in MODULES.items():
        (broker.folder / name).write_text(code)
    env = {
        "PYTHONPATH": f"{ROOT}:{broker.folder}",
        "CELERY_BROKER_URL": broker.url,
        "CELERY_CONTROL_EXCHANGE": broker.namespace,
        "CELERY_EVENT_EXCHANGE": str(broker.config["event_exchange"]),
    }
    command = arguments.format(port=port, uwsgi=broker.folder / "uwsgi_run.py").split()
    return Process([sys.executable, *command], log=broker.folder / f"{port}.log", env=env)


def ask(connect: Callable[[], Callable[[], bytes]], callers: int, expected: int) -> list[str]:
    """Ask once by each caller at the same time; return the cells of the table."""
    together = Barrier(callers)

    def one(_number: int) -> tuple[float, str]:
        get = connect()
        together.wait()
        started = time.monotonic()
        try:
            answers = json.loads(get())
        except Exception as exc:  # noqa: BLE001 - counted
            return time.monotonic() - started, f"{type(exc).__name__} {exc}"[:40]
        whole = len(answers["stats"] or ()) == expected
        return time.monotonic() - started, "200" if whole else "200 in part"

    with ThreadPoolExecutor(callers) as executor:
        results = list(executor.map(one, range(callers)))
    statuses = Counter(status for _seconds, status in results)
    times = [seconds for seconds, _status in results]
    told = ", ".join(f"{count} times {status}" for status, count in statuses.items())
    return [told, ms(median(times)), ms(max(times))]


def run(name: str, token: str, callers: int) -> list[str]:
    """Return a server's row of the table."""
    package, arguments = SERVERS[name]
    port = free_port()

    connect = partial(make_client, port, token)

    def answers() -> bool:
        assert server.popen.poll() is None, server.log.read_text(errors="replace")
        with suppress(OSError):
            return bool(connect()())
        return False

    with place("redis") as broker:
        _one, two = broker.fleet("one@bench", "two@bench")
        server = start(broker, arguments, port)
        try:
            wait_until(answers, seconds=30, what=f"{name}: {server.log}")
            cells = ask(connect, callers, expected=2)
            two.freeze()
            cells += ask(connect, callers, expected=1)
        finally:
            server.stop()
    return [name, installed(package), *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=20)
    callers = parser.parse_args().callers
    chosen = [name for name, (package, _arguments) in SERVERS.items() if installed(package)]
    with demo_project() as token:
        rows = [run(name, token, callers) for name in chosen]
    header = ["server", "version", "answers", "median", "slowest"]
    header += ["one worker frozen", "median", "slowest"]
    show(f"{callers} callers at once, two prefork workers on Redis", header, rows)


if __name__ == "__main__":
    main()
