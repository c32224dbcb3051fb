"""The parts of ``manage.py demo``: a broker, its children, a feeder, and how to end them."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import ProxyHandler, Request, build_opener

from django.conf import settings
from django.utils.timezone import now
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.url import parse_url, sanitize_url
from kombu.utils.uuid import uuid

from . import tasks
from .celery import app

#: Each has a queue of its own, so that each surely has something to do.
WORKERS = ("worker1@demo", "worker2@demo")
WEB_SERVER = "web server"

#: Seconds for one dialogue with a broker that may never answer.
BROKER_PATIENCE = 3.0

#: A child dies with all that it started when its command ends, and when the end of its
#: standard input says that the demo is gone, be it by SIGKILL.
CHILD = '("$@"; kill -KILL 0) & read -r _; kill -KILL 0'

T = TypeVar("T")


class DemoError(Exception):
    """Why the demo cannot go on: one line, without a password."""


class Stopped(Exception):
    """Somebody asked the demo to end."""


class Stop:
    """Ends the demo, when a signal asks for that, at a moment that suits it.

    An exception raised by the signal's handler could strike between the start of a process
    and the note that it has to be ended. So the handler only takes the request down, and
    whatever takes long looks there in between.
    """

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._request)

    def _request(self, *_: object) -> None:
        self.requested = True

    def until(self, done: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for something.

        Args:
            done: asked again and again.
            seconds: for how long.

        Returns:
            bool: whether it came about.

        Raises:
            Stopped: a signal has come.
        """
        end = time.monotonic() + seconds
        while True:
            self.check()
            if done():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.05)

    def check(self) -> None:
        """Go on only if nobody asked to end.

        Raises:
            Stopped: a signal has come.
        """
        if self.requested:
            raise Stopped


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do what may hang for ever in a thread that nobody has to wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as exc:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


class Broker:
    """A broker of the demo's own, or a corner of one that others use too.

    Queues, exchanges and Redis keys bear a name that nobody else has: other workers are
    neither seen nor spoken to, and everything can be found and removed again.
    """

    def __init__(self, folder: Path) -> None:
        """Point this process's Celery app to the broker; nothing is connected yet.

        Args:
            folder: the demo's; an embedded broker keeps its files there.

        Raises:
            DemoError: Celery cannot use what CELERY_BROKER_URL names.
        """
        self.name = folder.name
        self.queues = [f"{self.name}.{worker.partition('@')[0]}" for worker in WORKERS]
        self.exchanges = [
            *self.queues,
            f"{self.name}.pidbox",
            f"reply.{self.name}.pidbox",
            f"{self.name}.events",
        ]
        #: Celery's settings, by the names that they have among Django's.
        self.settings: dict[str, Any] = {
            "CELERY_CONTROL_EXCHANGE": self.name,
            "CELERY_EVENT_EXCHANGE": f"{self.name}.events",
        }
        url = os.environ.get("CELERY_BROKER_URL", "")
        self.embedded = url.partition(":")[0] in ("", "filesystem", "memory")
        if self.embedded:
            self.url = "filesystem://localhost"
            self.is_redis = False
            self.settings |= {
                "CELERY_BROKER_TRANSPORT": "project.filesystem:Transport",
                "CELERY_BROKER_TRANSPORT_OPTIONS": self._make_folders(folder),
                # Without an event loop, which this transport has not, a worker that may
                # wait for a free process would be deaf meanwhile.
                "CELERY_WORKER_POOL_PUTLOCKS": False,
            }
        else:
            self.url = url
            try:
                transport = Connection(url).get_transport_cls()
            except ValueError as exc:
                # What it says may be a piece of the password.
                raise DemoError("CELERY_BROKER_URL is not a URL") from exc
            except (ImportError, KeyError) as exc:
                raise DemoError(f"Celery cannot use CELERY_BROKER_URL: {exc.args[0]}") from exc
            self.is_redis = transport.driver_type == "redis"
            if self.is_redis:
                self.settings["CELERY_BROKER_TRANSPORT_OPTIONS"] = {
                    **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
                    "global_keyprefix": f"{self.name}:",
                }
        # Celery itself looks at this variable before its settings.
        os.environ["CELERY_BROKER_URL"] = self.url
        for name, value in self.settings.items():
            setattr(settings, name, value)

    def _make_folders(self, folder: Path) -> dict[str, Any]:
        messages, bindings = folder / "messages", folder / "bindings"
        messages.mkdir()
        bindings.mkdir()
        # Two processes that create the same binding table at once lose one binding.
        for exchange in self.exchanges:
            (bindings / f"{exchange}.exchange").write_text("[]")
        return {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(bindings),
            "polling_interval": 0.02,
        }

    def __str__(self) -> str:
        if self.embedded:
            return "embedded, in a temporary folder"
        # A password may also stand behind the question mark.
        return ", ".join(sanitize_url(url.partition("?")[0]) for url in self.url.split(";"))

    def without_password(self, text: str) -> str:
        """Mask the broker's password in what somebody else wrote."""
        for url in self.url.split(";"):
            password = parse_url(url)["password"]
            if password:
                text = text.replace(password, "**")
        return text

    def environment(self) -> dict[str, str]:
        """Return the settings for children, as ``project.settings`` reads them."""
        return {"CELERY_BROKER_URL": self.url} | {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.settings.items()
        }

    def connect(self) -> None:
        """Say hello to the broker; it may hang."""
        with app.connection_for_write(connect_timeout=BROKER_PATIENCE) as connection:
            connection.ensure_connection(
                max_retries=len(connection.alt), interval_start=0, timeout=BROKER_PATIENCE
            )
            # Redis is not spoken to before there is a channel.
            connection.channel().close()

    def waiting(self, queue: str) -> int:
        """Return the number of messages that no worker has taken yet."""
        with app.connection_or_acquire() as connection:
            try:
                reply = connection.default_channel.queue_declare(queue, passive=True)
            except connection.channel_errors:
                # Redis and the file system do not know a queue that is empty.
                return 0
            return int(reply.message_count)

    def clean(self) -> None:
        """Remove from the broker whatever the demo and its children made; it may hang."""
        # Without the prefix, which the Redis client adds to some commands and not to others.
        with app.connection_for_write(transport_options={"global_keyprefix": ""}) as connection:
            channel = connection.default_channel
            if self.is_redis:
                for key in channel.client.scan_iter(match=f"{self.name}:*", count=1000):
                    channel.client.delete(key)
                return
            for queue in self.queues:
                channel.queue_delete(queue)
            for exchange in self.exchanges:
                channel.exchange_delete(exchange)


class Child:
    """A process of the demo, with a process group and a log of its own."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        descriptor: int,
    ) -> None:
        """Start it.

        Args:
            name: what messages call it.
            command: a Python module and its arguments.
            folder: the demo's; the log goes there.
            environment: the whole of it.
            descriptor: an open file that it inherits.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - nothing from outside
                ["/bin/sh", "-c", CHILD, "sh", sys.executable, "-m", *command],
                cwd=settings.BASE_DIR,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[descriptor],
            )

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self.process.poll() is not None

    @property
    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

    def kill(self) -> None:
        """End it at once, with all that it started: there is nothing worth waiting for."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-self.process.pid, 0)
        self.process.communicate()


def adopt_orphans() -> None:
    """Let this process, not init, wait for the children of its children when those are gone.

    Otherwise they stay in the process table until init finds the time. Linux only.
    """
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def commands(broker: Broker, listener: int) -> dict[str, list[str]]:
    """Return what to start: name to Python module and arguments.

    Args:
        broker: the demo's.
        listener: file descriptor of the web server's socket, already bound.
    """
    worker = [
        *("celery", "--app", "project", "worker", "--loglevel", "INFO"),
        *("--pool", "prefork", "--concurrency", "2"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    web = ["gunicorn", "project.wsgi", "--config", "python:project.gunicorn"]
    return {
        name: [*worker, "--hostname", name, "--queues", queue]
        for name, queue in zip(WORKERS, broker.queues, strict=True)
    } | {WEB_SERVER: [*web, "--bind", f"fd://{listener}"]}


class Feeder(threading.Thread):
    """Keeps the workers busy.

    Each always has something running, something waiting, something for later and something
    revoked.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.done = threading.Event()
        #: For each queue, the id of a task that runs for an hour.
        self.long_tasks = {queue: uuid() for queue in broker.queues}
        self._opened: set[str] = set()
        self._next_minute = time.monotonic()
        connection = app.connection_for_write()
        self._errors = (
            OperationalError,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def run(self) -> None:
        """Feed until the end."""
        while True:
            # That the broker is away is for the endpoint to say; it may come back.
            with suppress(*self._errors):
                self._feed()
            if self.done.wait(1):
                return

    def _feed(self) -> None:
        for queue, long_task in self.long_tasks.items():
            if queue not in self._opened:
                tasks.back_up.apply_async(("orders", 60), queue=queue, task_id=long_task)
                tasks.import_prices.apply_async(("Acme",), queue=queue)
                for minutes in range(1, 10):
                    self._remind(queue, minutes)
                self._opened.add(queue)
            if self.broker.waiting(queue) < 2:
                for _ in range(4):
                    seconds = random.randint(10, 40)  # noqa: S311 - not a secret
                    report = {"month": "May", "seconds": seconds}
                    tasks.build_report.apply_async(("Acme",), report, queue=queue)
        if time.monotonic() >= self._next_minute:
            self._next_minute += 60
            for queue in self.broker.queues:
                self._remind(queue, minutes=10)
                app.control.revoke(self._remind(queue, minutes=10))

    def _remind(self, queue: str, minutes: int) -> str:
        invoice = {"invoice": random.randint(1000, 9999)}  # noqa: S311 - not a secret
        eta = now() + timedelta(minutes=minutes)
        return str(tasks.remind.apply_async(("Acme",), invoice, queue=queue, eta=eta))


class Endpoint:
    """What the demo is about, asked over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self.request = Request(url, headers={"Authorization": f"Token {token}"})  # noqa: S310
        # A proxy of the environment's would be asked for this machine's 127.0.0.1.
        self.opener = build_opener(ProxyHandler({}))
        #: The last answer, as it came.
        self.body = ""
        #: Why there was none.
        self.failure = "no answer"

    def get(self) -> dict[str, Any] | None:
        """Return an answer, or None while there is none to be had."""
        try:
            with self.opener.open(self.request, timeout=BROKER_PATIENCE) as response:
                self.body = response.read().decode()
        except OSError as exc:
            self.failure = str(exc)
            return None
        answer: dict[str, Any] = json.loads(self.body)
        return answer


def is_there(worker: str, answer: Mapping[str, Any]) -> bool:
    """Whether a worker answered."""
    return worker in (answer["stats"] or ())


def is_busy(answer: Mapping[str, Any]) -> bool:
    """Whether every worker has something under each key that can be empty."""
    return all(
        answer[key] and all(answer[key].get(worker) for worker in WORKERS)
        for key in ("active", "scheduled", "reserved", "revoked")
    )
