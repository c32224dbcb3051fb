"""The parts of ``manage.py demo``: a broker, processes, users and tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.utils.timezone import now
from kombu.utils.url import sanitize_url
from rest_framework.authtoken.models import Token

from . import tasks
from .celery import app

#: Worker to the queue that it alone consumes, so that each worker has something to do.
WORKERS = {"worker1@demo": "orders", "worker2@demo": "reports"}

#: A process ends with all that it started when its command ends, and when its standard input
#: ends. The latter happens if the demo is gone, even if it was killed.
PROCESS = '("$@"; kill -KILL 0) & read -r _; kill -KILL 0'

#: Options that bound each exchange with a broker, in seconds: those of Redis and of AMQP.
TIMEOUTS = dict.fromkeys(
    ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout"), 3
)


class DemoError(Exception):
    """Why the demo cannot go on, in one line."""


class Broker:
    """A broker in the demo's folder, or a part of the broker that CELERY_BROKER_URL names.

    Other programs may use the latter, so the names of all exchanges, queues and keys begin with
    the name of the demo's folder: its workers see no others, and :meth:`clean` finds everything.
    """

    def __init__(self, folder: Path) -> None:
        """Let the settings of this process lead to the broker. Nothing is connected yet."""
        self.name = folder.name
        self.url = os.environ.get("CELERY_BROKER_URL", "")
        self.is_own = self.url.partition(":")[0] in ("", "filesystem", "memory")
        self.is_redis = self.url.startswith(("redis", "sentinel"))
        (folder / "results").mkdir()
        # In a folder and under a prefix for Redis' keys, the names are the demo's own already.
        prefix = "" if self.is_own or self.is_redis else f"{self.name}."
        self.queues = {worker: f"{prefix}{queue}" for worker, queue in WORKERS.items()}
        #: Celery's settings by the names that they have among Django's.
        self.settings: dict[str, Any] = {
            "CELERY_CONTROL_EXCHANGE": self.name,
            "CELERY_EVENT_EXCHANGE": f"{self.name}.events",
            "CELERY_RESULT_BACKEND": f"file://{folder / 'results'}",
            "CELERY_TASK_QUEUES": {queue: {"exchange": queue} for queue in self.queues.values()},
        }
        if self.is_own:
            self.url = "filesystem://localhost"
            (folder / "messages").mkdir()
            self.settings |= {
                "CELERY_BROKER_TRANSPORT": "project.filesystem:Transport",
                "CELERY_BROKER_TRANSPORT_OPTIONS": {
                    "data_folder_in": str(folder / "messages"),
                    "data_folder_out": str(folder / "messages"),
                    "control_folder": str(folder / "bindings"),
                    "polling_interval": 0.02,
                },
                # This transport has no event loop, so a worker that waits for a free process
                # would not read its mailbox meanwhile.
                "CELERY_WORKER_POOL_PUTLOCKS": False,
            }
        elif self.is_redis:
            self.settings["CELERY_BROKER_TRANSPORT_OPTIONS"] = {
                **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
                "global_keyprefix": f"{self.name}:",
            }
        # Celery reads this variable before its settings.
        os.environ["CELERY_BROKER_URL"] = self.url
        for name, value in self.settings.items():
            setattr(settings, name, value)

    def __str__(self) -> str:
        if self.is_own:
            return "of its own, in a temporary folder"
        # A password may also stand behind the question mark.
        return ", ".join(sanitize_url(url.partition("?")[0]) for url in self.url.split(";"))

    def environment(self) -> dict[str, str]:
        """Return the settings as ``project.settings`` reads them."""
        return {"CELERY_BROKER_URL": self.url} | {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.settings.items()
        }

    def clean(self) -> None:
        """Remove from the broker what the demo and its processes made.

        Raises:
            DemoError: the broker does not answer any more.
        """
        # Without the prefix, because the client adds it to some commands and not to others.
        options = {"global_keyprefix": "", **TIMEOUTS}
        connection = app.connection_for_write(connect_timeout=3, transport_options=options)
        try:
            with connection:
                channel = connection.channel()
                if self.is_redis:
                    for key in channel.client.scan_iter(match=f"{self.name}:*", count=1000):
                        channel.client.delete(key)
                    return
                queues = self.queues.values()
                for queue in queues:
                    channel.queue_delete(queue)
                pidbox = f"{self.name}.pidbox"
                for exchange in (*queues, pidbox, f"reply.{pidbox}", f"{self.name}.events"):
                    channel.exchange_delete(exchange)
        except (*connection.connection_errors, *connection.channel_errors, OSError) as exc:
            raise DemoError(
                f"The broker {self} does not answer; what is called {self.name} stays there"
            ) from exc


class Processes:
    """The web server and the workers. Each has a process group and a log file of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # Every process inherits the end for writing, so reading ends when all of them are gone.
        self._alive, self._inherited = os.pipe()

    def start(self, name: str, command: Sequence[str], *descriptors: int) -> None:
        """Start a Python module with arguments. It inherits the open files ``descriptors``."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - nothing from outside
                ["/bin/sh", "-c", PROCESS, "sh", sys.executable, "-m", *command],
                cwd=settings.BASE_DIR,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._inherited, *descriptors],
            )

    def take_ended(self) -> dict[str, str]:
        """Return name to last line of the log, of those that ended since the last call."""
        ended = [name for name, process in self._running.items() if process.poll() is not None]
        last_lines = {}
        for name in ended:
            self._running.pop(name).communicate()
            lines = (self._folder / f"{name}.log").read_text(errors="replace").split("\n")
            last_lines[name] = next(filter(None, map(str.strip, reversed(lines))), "no message")
        return last_lines

    def end(self) -> None:
        """Kill them with all that they started, and wait until they are gone."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        os.close(self._inherited)
        os.read(self._alive, 1)
        os.close(self._alive)


def create_users(password: str) -> dict[str, str]:
    """Create one user of each kind, and return name to token."""
    users = get_user_model().objects
    # Hashed once, because that takes half a second.
    common = {"password": make_password(password)}
    created = (
        users.create(username="support", is_support=True, **common),
        users.create(username="customer", **common),
        users.create(username="admin", is_staff=True, is_superuser=True, **common),
    )
    return {user.get_username(): Token.objects.create(user=user).key for user in created}


def send_tasks(queue: str) -> str:
    """Give the worker of a queue something under every key; return the id of a long task."""
    long_task = tasks.back_up.apply_async(("orders", 60), queue=queue)
    tasks.import_prices.apply_async(("Acme",), queue=queue)
    for seconds in range(10, 40, 5):
        report = {"month": "May", "seconds": seconds}
        tasks.build_report.apply_async(("Acme",), report, queue=queue)
    for minutes in range(1, 11):
        eta = now() + timedelta(minutes=minutes)
        reminder = tasks.remind.apply_async(("Acme",), {"invoice": minutes}, queue=queue, eta=eta)
    app.control.revoke(reminder.id)
    return str(long_task.id)
