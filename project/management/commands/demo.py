"""Shows everything at work with one command, and without any service to install."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from django.core.management import BaseCommand, CommandError, CommandParser, call_command
from django.db import connection

from project.demo import WORKERS, Broker, DemoError, Processes, create_users, send_tasks

#: Seconds for one step of the start.
PATIENCE = 20.0

WEB_SERVER = "web server"

READY = """
Ready after {seconds:.1f} s. Ctrl-C ends it and removes everything that it made.

As support (200):
  curl -i -H 'Authorization: Token {support}' {url}api/celery-stats/
As an ordinary user (403):
  curl -i -H 'Authorization: Token {customer}' {url}api/celery-stats/
A task that is running, by its id:
  curl -H 'Authorization: Token {support}' '{url}api/celery-stats/?field=query_task&task_id={task}'
In a terminal, without the web server:
  (. {folder}/environment; {python} {script} celery_stats)

Pages to open; log in as support, customer or admin with the password {password}
  {url}api/celery-stats/
  {url}api/docs/
  {url}admin/   (admin)
The logs are in {folder}
"""


class Command(BaseCommand):
    """Two workers, tasks and a web server, with a broker and a database of their own.

    If it is killed with SIGKILL, its processes end, but its temporary folder and what it put on
    a broker of somebody else stay. All of that is called ``celery-stats-demo-…``.
    """

    help = "Shows the endpoint and real workers at work. Needs no service."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port", type=int, default=8000, help="8000 by default; 0 means any that is free"
        )
        parser.add_argument(
            "--once", action="store_true", help="print one answer of the endpoint, and end"
        )

    def handle(self, *args: Any, port: int, once: bool, **options: Any) -> None:
        self.progress = self.stderr if once else self.stdout
        self.stop_requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.request_stop)
        try:
            with ExitStack() as stack:
                self.run(stack, port, once)
        except KeyboardInterrupt:
            self.say("Stopped")
        except DemoError as exc:
            raise CommandError(str(exc)) from exc

    def request_stop(self, *_: object) -> None:
        # An exception would be raised at any moment, for example between the start of a process
        # and the note that it has to be ended.
        self.stop_requested = True

    def run(self, stack: ExitStack, port: int, once: bool) -> None:
        """Start everything, with its end on the stack, and keep it running."""
        started = time.monotonic()
        try:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except (OSError, OverflowError) as exc:
            raise DemoError(f"Port {port} cannot be used: {exc}. Choose another with --port")  # noqa: B904
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        folder = Path(tempfile.mkdtemp(prefix="celery-stats-demo-"))
        stack.callback(shutil.rmtree, folder)
        temporary = folder / "tmp"
        temporary.mkdir()
        # kombu moves every message of a broker in a folder there before it reads the message.
        tempfile.tempdir = str(temporary)

        broker = Broker(folder)
        if not broker.is_own:
            try:
                call_command("celery_stats", timeout=0.1, stdout=StringIO(), stderr=StringIO())
            except CommandError as exc:
                if exc.returncode != 1:  # There is no worker yet.
                    raise DemoError(f"The broker cannot be used. {exc}") from exc
            stack.callback(broker.clean)
        self.say(f"Broker: {broker}")

        self.say(f"Starting {', '.join(WORKERS)} and the web server at {url}")
        connection.settings_dict["NAME"] = str(folder / "db.sqlite3")
        environment = {
            **broker.environment(),
            "DJANGO_DATABASE": str(folder / "db.sqlite3"),
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(),
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "TMPDIR": str(temporary),
        }
        exports = [f"export {name}={shlex.quote(text)}\n" for name, text in environment.items()]
        (folder / "environment").write_text("".join(exports))
        self.processes = Processes(folder, environment)
        stack.callback(self.processes.end)
        for worker, queue in broker.queues.items():
            command = ["celery", "--app", "project", "worker", "--loglevel", "INFO"]
            command += ["--hostname", worker, "--queues", queue, "--concurrency", "2"]
            command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            self.processes.start(worker, command)
        command = ["gunicorn", "project.wsgi", "--config", "python:project.gunicorn"]
        command += ["--bind", f"fd://{listener.fileno()}"]
        self.processes.start(WEB_SERVER, command, listener.fileno())

        self.say("Migrating a temporary database and creating users")
        call_command("migrate", verbosity=0)
        password = secrets.token_urlsafe(8)
        tokens = create_users(password)
        connection.close()

        request = Request(f"{url}api/celery-stats/")  # noqa: S310 - this machine's
        request.add_header("Authorization", f"Token {tokens['support']}")
        # Not through a proxy that the environment names, because it has another 127.0.0.1.
        opener = build_opener(ProxyHandler({}))

        def all_answer(*fields: str) -> bool:
            """Whether each worker has something under each field."""
            with opener.open(request, timeout=3) as response:
                self.body = response.read().decode()
            answer = json.loads(self.body)
            return all((answer[field] or {}).get(name) for field in fields for name in WORKERS)

        self.wait("the workers", lambda: all_answer("stats"))
        long_tasks = [send_tasks(queue) for queue in broker.queues.values()]
        self.say(f"{', '.join(WORKERS)} are ready")
        self.wait("tasks", lambda: all_answer("active", "scheduled", "reserved", "revoked"))
        if once:
            self.stdout.write(self.body)
            return
        text = READY.format(
            seconds=time.monotonic() - started,
            url=url,
            folder=folder,
            task=long_tasks[0],
            password=password,
            python=shlex.quote(sys.executable),
            script=shlex.quote(str(Path(sys.argv[0]).resolve())),
            **tokens,
        )
        self.say(text)
        self.wait()

    def say(self, text: str) -> None:
        """Report progress at once, also into a pipe."""
        self.progress.write(text, str)
        self.progress.flush()

    def wait(self, awaited: str = "", is_there: Callable[[], bool] = lambda: False) -> None:
        """Wait until ``is_there`` returns True; without ``awaited``, until somebody stops it.

        Raises:
            KeyboardInterrupt: a signal asked to stop.
            DemoError: it takes too long, or a process ended that is needed. A worker may end
                later, because somebody may want to see it missing.
        """
        reason, ends = "no answer", time.monotonic() + PATIENCE
        while not self.stop_requested:
            for name, last_line in self.processes.take_ended().items():
                if awaited or name == WEB_SERVER:
                    raise DemoError(f"{name} ended: {last_line}")
                self.say(f"{name} ended")
            try:
                if is_there():
                    return
            except OSError as exc:
                reason = str(exc)
            if awaited and time.monotonic() > ends:
                raise DemoError(f"Waited {PATIENCE:.0f} s for {awaited}: {reason}")
            time.sleep(0.05)
        raise KeyboardInterrupt
