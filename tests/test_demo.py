"""``manage.py demo``, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener
from uuid import uuid4

import kombu
import pytest
import redis

from celery_stats.shapes import FIELDS
from tests.brokers import AMQP_URL, RedisServer
from tests.processes import ROOT, wait_until

pytestmark = pytest.mark.broker

WORKERS = ["worker1@demo", "worker2@demo"]
QUEUES = ["orders", "reports"]


def inherited() -> dict[str, str]:
    """Return the environment without what points to these tests' own project and brokers."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELERY_", "DJANGO_"))
    }


class Demo:
    """A running demo with a temporary folder of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.mark = uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", *(arguments or ("--port", "0"))],
            cwd=ROOT,
            env={**inherited(), "TMPDIR": str(folder), "DEMO_MARK": self.mark, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # No pipe can be read with a time-out.
        self.watchdog = Timer(180, self.process.kill)
        self.watchdog.start()

    def read_until(self, text: str) -> list[str]:
        """Return the lines of standard output up to the one with ``text``."""
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line.strip())
            if text in line:
                return lines
        raise AssertionError(f"no {text!r} in {lines}, {self.process.communicate()}")

    def finish(self, number: int | None = None) -> tuple[int, str, str]:
        """Return exit status, standard output and standard error, after a signal if any."""
        if number is not None:
            self.process.send_signal(number)
        output, errors = self.process.communicate()
        self.watchdog.cancel()
        return self.process.returncode, output, errors

    def processes(self) -> list[str]:
        """Return the command lines of all processes that inherited its environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            # It may end at any moment.
            with suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    def leftovers(self) -> list[str]:
        """Return what a demo that is over should have removed."""
        return [*self.processes(), *(str(path) for path in self.folder.iterdir())]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start(*arguments: str, **environment: str) -> Demo:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Demo(folder, *arguments, **environment))
        return started[-1]

    yield start
    for demo in started:
        demo.finish(signal.SIGTERM)


def get(url: str, **headers: str) -> tuple[int, str]:
    """Return status and body."""
    try:
        with build_opener(ProxyHandler({})).open(Request(url, headers=headers)) as response:
            return response.status, response.read().decode()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def get_as(name: str, password: str, url: str) -> str:
    """Return the body after the log-in that the URL leads to."""
    browser = build_opener(ProxyHandler({}), HTTPCookieProcessor())
    with browser.open(url) as form:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.read().decode())
    assert token
    values = {"csrfmiddlewaretoken": token[1], "username": name, "password": password}
    with browser.open(form.url, urlencode(values).encode()) as page:
        assert page.url == url
        return page.read().decode()


def printed(command: str) -> str:
    """Return what a command prints that the demo names."""
    run = subprocess.run(
        ["sh", "-c", command],
        cwd="/",  # It can be pasted into any terminal.
        env=inherited(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def assert_busy(answer: dict[str, Any]) -> None:
    assert list(answer) == list(FIELDS)
    assert sorted(answer["stats"]) == WORKERS
    for key in ("active", "scheduled", "reserved", "revoked"):
        assert sorted(answer[key]) == WORKERS
        assert all(answer[key].values()), key


def test_lines_to_paste__sigint(start: Callable[..., Demo]) -> None:
    demo = start()
    lines = demo.read_until("The logs are in")
    answers, tokens = [], []
    for line in lines:
        if line.startswith("curl"):
            header, url = (word for word in shlex.split(line)[1:] if not word.startswith("-"))
            name, _, value = header.partition(": ")
            answers.append((url, *get(url, **{name: value})))
            tokens.append(value)
    assert [status for _, status, _ in answers] == [200, 403, 200]
    assert_busy(json.loads(answers[0][2]))
    active = json.loads(answers[0][2])["active"]
    shown = {
        name: {task["delivery_info"]["routing_key"] for task in active[name]} for name in active
    }
    assert shown == {"worker1@demo": {"orders"}, "worker2@demo": {"reports"}}
    found = json.loads(answers[2][2])["query_task"]["worker1@demo"]
    assert [state for state, _ in found.values()] == ["active"]
    assert answers[2][0].endswith("task_id=" + "".join(found))

    # As many ids as the endpoint takes; gunicorn's default refuses so long an address.
    ids = "&".join(f"task_id={uuid4()}" for _ in range(100))
    assert get(f"{answers[0][0].partition('?')[0]}?{ids}", Authorization=tokens[0])[0] == 200

    _, docs, admin = (line.split()[0] for line in lines if line.startswith("http"))
    (password,) = (line.split()[-1] for line in lines if line.startswith("Pages to open"))
    schema = docs.replace("docs/", "schema/")
    assert get(schema)[0] == 401
    assert get(schema, Authorization=tokens[0])[0] == 200
    assert get(admin.replace("admin/", "static/admin/css/base.css"))[0] == 200
    assert 'name="password"' in get(docs)[1]
    swagger = get_as("support", password, docs)
    assert "swagger" in swagger
    assert "https://" not in swagger

    (command,) = (line for line in lines if line.endswith(" celery_stats)"))
    table = printed(command)
    assert table.startswith("2 workers answered in ")
    queues = table.partition("Queue ")[2].splitlines()[1:]
    assert [line.split()[0] for line in queues if line] == QUEUES

    results = Path(lines[-1].split()[-1], "results")
    failed = wait_until(
        lambda: next(
            (path for path in results.glob("celery-*") if "FAILURE" in path.read_text()), None
        )
    )
    task_id = failed.name.removeprefix("celery-task-meta-")
    look_up = command.replace("celery_stats)", f"celery_stats --task-id {task_id})")
    assert "The result backend says FAILURE: it failed at " in printed(look_up)

    status, _, errors = demo.finish(signal.SIGINT)
    assert (status, errors) == (0, "")
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Broker:", signal.SIGINT),
        ("Migrating", signal.SIGTERM),
        ("are ready", signal.SIGINT),
    ],
)
def test_signal__while_starting(
    start: Callable[..., Demo], moment: str, number: signal.Signals
) -> None:
    demo = start()
    demo.read_until(moment)
    status, _, errors = demo.finish(number)
    assert (status, errors) == (0, "")
    assert demo.leftovers() == []


def test_signal__before_django_is_there(start: Callable[..., Demo]) -> None:
    demo = start()
    status_file = Path(f"/proc/{demo.process.pid}/status")

    def catches_sigterm() -> bool:
        line = next(x for x in status_file.read_text().splitlines() if x.startswith("SigCgt"))
        return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(catches_sigterm)
    assert demo.finish(signal.SIGTERM) == (0, "", "")
    assert demo.leftovers() == []


def test_sigkill__takes_the_processes_with_it(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.read_until("Migrating")
    # The demo, a web server of two processes, two workers of three, and their shells.
    wait_until(lambda: len(demo.processes()) >= 9)
    demo.finish(signal.SIGKILL)
    wait_until(lambda: not demo.processes(), what="the children to notice")


def test_taken_port(start: Callable[..., Demo]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        demo = start("--port", str(port))
        status, output, errors = demo.finish()
    assert (status, output) == (1, "")
    assert f"Port {port} cannot be used" in errors
    assert len(errors.splitlines()) == 1
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("scheme", "accepts"),
    [("amqp", False), ("redis", False), ("redis", True)],
    ids=["amqp-refuses", "redis-refuses", "redis-silent"],
)
def test_unreachable_broker(start: Callable[..., Demo], scheme: str, accepts: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if accepts:
            server.listen()
        url = f"{scheme}://me:hunter2@127.0.0.1:{server.getsockname()[1]}/"
        demo = start(CELERY_BROKER_URL=url)
        status, _, errors = demo.finish()
    assert status == 1
    assert errors.startswith("CommandError: The broker cannot be used. No snapshot: Broker")
    assert len(errors.splitlines()) == 1
    assert "hunter2" not in errors
    assert demo.leftovers() == []


def test_worker_does_not_start(start: Callable[..., Demo], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nif 'worker' in sys.argv: sys.exit('not today')\n"
    )
    demo = start(PYTHONPATH=str(tmp_path / "site"))
    status, _, errors = demo.finish()
    assert status == 1
    assert errors == "CommandError: worker1@demo ended: SystemExit: not today\n"
    assert demo.leftovers() == []


def test_once__redis(start: Callable[..., Demo], redis_server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/998"
    with redis.Redis.from_url(url) as client:
        client.set("celery", "somebody else's")
        demo = start("--once", "--port", "0", CELERY_BROKER_URL=url)
        status, output, errors = demo.finish()
        assert status == 0, errors
        assert "worker2@demo are ready" in errors
        assert_busy(json.loads(output))
        assert client.keys("*") == [b"celery"]
        client.delete("celery")
    assert demo.leftovers() == []


@pytest.mark.skipif(AMQP_URL is None, reason="CELERY_STATS_TEST_AMQP_URL names no RabbitMQ")
def test_sigterm__rabbitmq(start: Callable[..., Demo]) -> None:
    demo = start(CELERY_BROKER_URL=str(AMQP_URL))
    line = demo.read_until("The logs are in")[-1]
    name = Path(line.split()[-1]).name
    mailbox, reply = f"{name}.pidbox", f"reply.{name}.pidbox"
    with kombu.Connection(AMQP_URL) as connection:

        def exists(method: str, entity: str, **options: Any) -> bool:
            channel = connection.channel()
            try:
                getattr(channel, method)(entity, passive=True, **options)
            except connection.channel_errors as exc:
                return bool(exc.code != 404)
            channel.close()
            return True

        def all_there_is() -> list[bool]:
            return [
                *(exists("queue_declare", f"{name}.{queue}") for queue in QUEUES),
                *(exists("queue_declare", f"worker{n}@demo.{mailbox}") for n in (1, 2)),
                *(
                    exists("exchange_declare", f"{name}.{queue}", type="direct")
                    for queue in QUEUES
                ),
                exists("exchange_declare", mailbox, type="fanout"),
                exists("exchange_declare", reply, type="direct"),
            ]

        assert all(all_there_is())
        status, _, errors = demo.finish(signal.SIGTERM)
        assert (status, errors) == (0, "")
        assert not any(all_there_is())
    assert demo.leftovers() == []


def test_server__refuses_to_run_without_a_key_of_its_own() -> None:
    environment = inherited() | {"DJANGO_SETTINGS_MODULE": "project.settings"}
    done = subprocess.run(
        [sys.executable, "-c", "import project.wsgi"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ImproperlyConfigured: Set DJANGO_SECRET_KEY to a long random text.\n"
    )
