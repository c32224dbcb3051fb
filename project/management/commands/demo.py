"""The whole thing at work in one command, with no service to install."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.core.management import BaseCommand, CommandError, CommandParser, call_command
from django.db import connection
from rest_framework.authtoken.models import Token

from project.demo import (
    BROKER_PATIENCE,
    WEB_SERVER,
    WORKERS,
    Broker,
    Child,
    DemoError,
    Endpoint,
    Feeder,
    Stop,
    Stopped,
    adopt_orphans,
    commands,
    in_background,
    is_busy,
    is_there,
)

#: Seconds for one step of the start.
PATIENCE = 20.0

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

    Ended by SIGKILL it still takes its processes with it, but not its temporary folder nor
    what it put on somebody else's broker; all of that is called ``celery-stats-demo-…``.
    """

    help = "Shows the endpoint and real workers at work. Needs no service."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--port`` and ``--once``."""
        parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
        parser.add_argument(
            "--once", action="store_true", help="print one answer of the endpoint, and end"
        )

    def handle(self, *args: Any, port: int, once: bool, **options: Any) -> None:
        """Run until a signal comes; with ``once``, until there is an answer.

        Raises:
            CommandError: it could not start, or the web server ended.
        """
        self.started_at = time.monotonic()
        self.progress = self.stderr if once else self.stdout
        self.stop = Stop()
        adopt_orphans()
        self.children: list[Child] = []
        #: Makes an error message fit to be seen.
        self.tidy: Callable[[str], str] = str
        try:
            with ExitStack() as stack:
                self.run(stack, port, once)
        except Stopped:
            self.say("Stopped")
        except DemoError as exc:
            raise CommandError(self.tidy(str(exc))) from exc

    def run(self, stack: ExitStack, port: int, once: bool) -> None:
        """Start everything, each with its end on the stack, and keep it running."""
        listener = bound_socket(port)
        stack.callback(listener.close)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        folder = Path(tempfile.mkdtemp(prefix="celery-stats-demo-"))
        stack.callback(shutil.rmtree, folder)
        temporary = folder / "tmp"
        temporary.mkdir()
        # kombu moves every message of a file-system broker there before it reads it.
        tempfile.tempdir = str(temporary)

        broker = Broker(folder)
        self.tidy = broker.without_password
        self.say(f"Broker: {broker}")
        if not broker.embedded:
            self.connect(broker)
            stack.callback(self.clean, broker)

        self.say(f"Starting {', '.join(WORKERS)} and the web server at {url}")
        database = connection.settings_dict["NAME"] = str(folder / "db.sqlite3")
        environment = {
            **broker.environment(),
            "DJANGO_DATABASE": database,
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(),
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "TMPDIR": str(temporary),
        }
        (folder / "environment").write_text(exports(environment))
        environment = {**os.environ, **environment}
        for name, command in commands(broker, listener.fileno()).items():
            child = Child(name, command, folder, environment, listener.fileno())
            stack.callback(child.kill)
            self.children.append(child)

        self.say("Migrating a temporary database and creating users")
        self.stop.check()
        call_command("migrate", verbosity=0)
        self.stop.check()
        password = secrets.token_urlsafe(8)
        tokens = create_users(password)
        connection.close()

        endpoint = Endpoint(f"{url}api/celery-stats/", tokens["support"])
        for worker in WORKERS:
            self.wait(endpoint, worker, partial(is_there, worker))
            self.say(f"{worker} is ready")
        feeder = Feeder(broker)
        stack.callback(feeder.join, timeout=1)
        stack.callback(feeder.done.set)
        feeder.start()
        self.wait(endpoint, "enough tasks", is_busy)
        if once:
            self.stdout.write(endpoint.body)
            return
        text = READY.format(
            seconds=time.monotonic() - self.started_at,
            url=url,
            folder=folder,
            task=feeder.long_tasks[broker.queues[0]],
            password=password,
            python=as_typed(sys.executable),
            script=as_typed(sys.argv[0]),
            **tokens,
        )
        self.say(text)
        self.stop.until(self.look_after_children)

    def say(self, text: str) -> None:
        """Report progress at once, also into a pipe."""
        self.progress.write(text, str)
        self.progress.flush()

    def connect(self, broker: Broker) -> None:
        """Find out in good time that there is no broker.

        Raises:
            DemoError: it cannot be reached.
        """
        greeting = in_background(broker.connect)
        if not self.stop.until(greeting.done, BROKER_PATIENCE + 1):
            raise DemoError(f"The broker {broker} does not answer")
        failure = greeting.exception()
        if failure:
            reason = str(failure).partition("\n")[0] or type(failure).__name__
            raise DemoError(f"The broker {broker} cannot be used: {reason}")

    def clean(self, broker: Broker) -> None:
        """Leave somebody else's broker as it was."""
        cleaning = in_background(broker.clean)
        done, _ = wait([cleaning], BROKER_PATIENCE)
        if not done or cleaning.exception():
            self.stderr.write(f"The broker {broker} is away; what is called {broker.name} stays.")

    def wait(
        self, endpoint: Endpoint, awaited: str, found: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        """Ask the endpoint until it shows what is awaited.

        Raises:
            DemoError: a child ended, or it took too long.
        """

        def done() -> bool:
            for child in self.children:
                if child.ended:
                    raise DemoError(f"{child.name} did not start: {child.last_words}")
            answer = endpoint.get()
            return answer is not None and found(answer)

        if not self.stop.until(done, PATIENCE):
            raise DemoError(f"Waited {PATIENCE:.0f} s for {awaited}: {endpoint.failure}")

    def look_after_children(self) -> bool:
        """Tell of a worker that ended: somebody may want to see it missing.

        Raises:
            DemoError: the web server ended, so that there is nothing left to see.
        """
        for child in [child for child in self.children if child.ended]:
            if child.name == WEB_SERVER:
                raise DemoError(f"The web server ended: {child.last_words}")
            self.say(f"{child.name} ended")
            self.children.remove(child)
        return False


def bound_socket(port: int) -> socket.socket:
    """Take a port of this machine, for the web server to listen on.

    Raises:
        DemoError: it is taken, or forbidden.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as exc:
        listener.close()
        raise DemoError(f"Port {port} cannot be used: {exc}; choose another with --port") from exc
    return listener


def exports(environment: Mapping[str, str]) -> str:
    """Return lines for a shell that give its commands the environment."""
    return "".join(f"export {name}={shlex.quote(text)}\n" for name, text in environment.items())


def as_typed(path: str) -> str:
    """Return the path as somebody in this folder would type it, for a shell."""
    here = Path.cwd()
    given = Path(path)
    return shlex.quote(str(given.relative_to(here) if given.is_relative_to(here) else given))


def create_users(password: str) -> dict[str, str]:
    """Create one user of each kind, and return their tokens."""
    users = get_user_model().objects
    # One hash for all: making one takes half a second.
    common = {"password": make_password(password)}
    for user in (
        users.create(username="support", is_support=True, **common),
        users.create(username="customer", **common),
        users.create(username="admin", is_staff=True, is_superuser=True, **common),
    ):
        Token.objects.create(user=user)
    return {token.user.username: token.key for token in Token.objects.select_related("user")}
