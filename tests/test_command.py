"""``manage.py celery_stats``: its exit status, and what it writes to terminals and pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from io import StringIO
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from uuid import uuid4

import pytest
from django.core.management import BaseCommand, CommandError, call_command
from rest_framework.test import APIClient

from celery_stats.control.question import Question
from celery_stats.management.commands import celery_stats
from celery_stats.management.commands.celery_stats import Command
from celery_stats.report import Report
from celery_stats.shapes import FIELDS
from tests.answers import ANSWERS, NOW
from tests.brokers import Broker, MakeBroker, RedisServer, Use
from tests.mailbox import Mailbox
from tests.network import silent_port
from tests.processes import ROOT, Forked, free_port, wait_until

PASSWORD = "hunter2"
CLOCK = r"\d\d:\d\d:\d\d"
FORGET = (
    "If the process of two@t is gone and not only frozen: "
    "python manage.py celery_stats --forget two@t"
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def environment(config: Mapping[str, Any], **env: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CELERY_STATS_TEST_CONFIG": json.dumps(config),
        **env,
    }


def run(
    broker: Broker, *args: str, stdout: int | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with its output in files."""
    with TemporaryFile() as out, TemporaryFile() as err:
        files = {"stdout": out.fileno() if stdout is None else stdout, "stderr": err.fileno()}
        status = start(broker, *args, **files, **env).wait(30)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, status, out.read(), err.read())


def start(broker: Broker, *args: str, stdin: int | None = None, **options: Any) -> Forked:
    """Start the command where Django is imported; ``options`` has files and environment."""
    files = {name: options.pop(name) for name in ("stdout", "stderr")}
    env = environment(broker.config, **options)
    return Forked("django", ["celery_stats", *args], env=env, stdin=stdin, **files)


def run_anew(
    broker: Broker, *args: str, stdout: int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a new interpreter, for what depends on how that starts."""
    return subprocess.run(
        [sys.executable, "-m", "django", "celery_stats", *args],
        cwd=ROOT,
        env=environment(broker.config, **env),
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )


class Watching:
    """The command with --watch, writing to pipes."""

    def __init__(self, broker: Broker, *args: str) -> None:
        self.stdout, stdout = self._pipe()
        self.stderr, stderr = self._pipe()
        args = ("--watch", "0.5", *args)
        self.process = start(broker, *args, stdout=stdout, stderr=stderr)
        os.close(stdout)
        os.close(stderr)

    @staticmethod
    def _pipe() -> tuple[BinaryIO, int]:
        ours, theirs = os.pipe()
        return os.fdopen(ours, "rb"), theirs

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self.stdout.close()
        self.stderr.close()

    def interrupt(self) -> tuple[int, bytes, bytes]:
        """Return the exit status, and what was still written to standard output and error."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10), self.stdout.read(), self.stderr.read()

    def hang_up(self) -> tuple[int, bytes]:
        """Close the pipe, as ``head`` does; return the exit status, and the last error."""
        self.stdout.close()
        return self.process.wait(10), self.stderr.read().splitlines()[-1]


class Terminal:
    """The command in a terminal of its own, which a test reads and types into."""

    def __init__(self, broker: Broker, *args: str, size: tuple[int, int] = (100, 24), **env: str):
        self.ours, theirs = pty.openpty()
        self.resize(*size)
        files = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        self.process = start(broker, *args, **files, TERM="xterm-256color", **env)
        os.close(theirs)
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def read(self, seconds: float | None = 0) -> bool:
        """Read what there is; return whether the command may write more."""
        if select.select([self.ours], [], [], seconds)[0]:
            try:
                self.seen += os.read(self.ours, 65536).decode().replace("\r\n", "\n")
            except OSError:  # EIO: the other end is closed.
                return False
        return True

    def read_to_the_end(self) -> str:
        while self.read(30):
            pass
        self.process.wait(10)
        return self.seen

    def interrupt(self) -> tuple[int, str]:
        """Type Ctrl-C, and return the exit status, and what came after the last picture."""
        os.write(self.ours, b"\x03")
        last = self.read_to_the_end().rpartition("\x1b[J")[2]
        return self.process.wait(10), last

    @property
    def picture(self) -> list[str]:
        """The lines that were shown last, complete and without colours."""
        self.read(0.1)
        shown = self.seen.rpartition("\x1b[J")[0].rpartition("\x1b[H")[2]
        return ANSI.sub("", shown.replace("\x1b[K\n", "\n")).splitlines()

    def shows(self, text: str) -> list[str]:
        """Wait for a picture that holds the text."""

        def found() -> list[str] | None:
            assert self.process.poll() is None, self.seen
            picture = self.picture
            return picture if text in "\n".join(picture) else None

        return wait_until(found, seconds=40, what=text)


def run_in_terminal(broker: Broker, *args: str, **env: str) -> str:
    """Return what a terminal shows."""
    with Terminal(broker, *args, **env) as terminal:
        return terminal.read_to_the_end()


def busy(broker: Broker) -> Broker:
    """Start two workers, a task that runs and one that waits for its ETA."""
    broker.fleet("one@t", "two@t")
    broker.app.control.revoke([str(uuid4())])
    broker.send("é", seconds=600, password=PASSWORD)
    broker.send("日本語", countdown=3600)
    inspect = broker.client().control.inspect(timeout=1)
    wait_until(lambda: any((inspect.active() or {}).values()), what="the running task")
    wait_until(lambda: any((inspect.scheduled() or {}).values()), what="the scheduled task")
    return broker


@pytest.fixture(scope="module")
def busy_redis(redis_server: RedisServer) -> Iterator[Broker]:
    broker = Broker("redis", f"redis://127.0.0.1:{redis_server.port}/903")
    yield busy(broker)
    broker.close()


#: Where the broker makes no difference.
on_redis = pytest.mark.parametrize("fleet", ["redis"], indirect=True)


class TestExitStatus:
    @pytest.mark.parametrize("options", [{}, {"json": True}], ids=["table", "json"])
    def test_somebody_without_a_name_is_silent__0_and_said_on_stderr(
        self, monkeypatch: pytest.MonkeyPatch, make_broker: MakeBroker, use: Use, options: Any
    ) -> None:
        use(make_broker())
        report = Report(ANSWERS, {}, NOW, 0.01, silent_subscribers=1)
        monkeypatch.setattr(celery_stats, "share_report", lambda *args: report)
        errors = StringIO()
        call_command("celery_stats", stdout=StringIO(), stderr=errors, **options)
        assert "1 connection listens on the workers" in errors.getvalue()

    def test_worker_reports_an_error__1_and_named(
        self, monkeypatch: pytest.MonkeyPatch, make_broker: MakeBroker, use: Use
    ) -> None:
        use(make_broker())
        report = Report({**ANSWERS, "stats": {"a@h": {"error": "no"}}}, {}, NOW, 0.01)
        monkeypatch.setattr(celery_stats, "share_report", lambda *args: report)
        with pytest.raises(CommandError, match="A worker reported an error") as raised:
            call_command("celery_stats", stdout=StringIO(), stderr=StringIO())
        assert raised.value.returncode == 1

    def test_look_up_and_queues__do_not_change_the_status(
        self, monkeypatch: pytest.MonkeyPatch, make_broker: MakeBroker, use: Use
    ) -> None:
        use(make_broker())
        question = Question(task_ids=("nope",), look_up=("nope",))
        active_queues = {"a@h": []}
        report = Report(
            ANSWERS, {}, NOW, 0.01, {"lost": 7}, question=question, active_queues=active_queues
        )
        monkeypatch.setattr(celery_stats, "share_report", lambda *args: report)
        call_command("celery_stats", stdout=StringIO(), stderr=StringIO())

    def test_all_answered__0(self, fleet: Broker) -> None:
        done = run(fleet)
        assert (done.returncode, done.stderr) == (0, b"")
        assert "2 workers answered" in done.stdout.decode()

    def test_no_worker__1(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(), "--field", "stats")
        assert (done.returncode, done.stderr) == (1, b"CommandError: No worker answered.\n")
        assert re.fullmatch(rf"No worker answered at {CLOCK}\.\n", done.stdout.decode())

    def test_no_worker_and_a_backlog__1_and_the_queue(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        broker.send()
        done = run(broker)
        assert (done.returncode, done.stderr) == (1, b"CommandError: No worker answered.\n")
        queue = f"{broker.namespace}.tasks"
        assert done.stdout.decode().splitlines()[1:] == [
            f"No worker that answered consumes {queue}, which holds 1 message.",
            "",
            f"{'Queue':<{len(queue)}}  Waiting  Consumed by",
            f"{queue}        1  \N{EN DASH}",
        ]

    def test_silent_worker__1_and_named(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        _, frozen = broker.fleet("one@t", "two@t")
        frozen.freeze()
        done = run(broker, "--timeout", "0.5")
        assert done.returncode == 1
        assert "1 worker answered" in done.stdout.decode()
        assert done.stdout.decode().splitlines()[1] == "two@t did not answer anything."
        done = run(broker, "--timeout", "0.5", "--json")
        assert done.returncode == 1
        assert done.stderr.decode().splitlines() == [
            FORGET,
            "CommandError: 1 worker did not answer everything: two@t.",
        ]
        assert list(json.loads(done.stdout)["stats"]) == ["one@t"]

    def test_unknown_worker__1_and_named(self, fleet: Broker) -> None:
        done = run(fleet, "--worker", "one@fleet", "--worker", "nobody@t", "--field", "stats")
        assert done.returncode == 1
        assert "one@fleet" in done.stdout.decode()
        assert done.stdout.decode().splitlines()[1] == "nobody@t did not answer anything."

    def test_broker_refuses__2_and_one_line_without_password(
        self, make_broker: MakeBroker
    ) -> None:
        port = free_port()
        broker = make_broker(broker_url=f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
        for args in ([], ["--json"]):
            done = run(broker, *args)
            assert (done.returncode, done.stdout) == (2, b"")
            (line,) = done.stderr.decode().splitlines()
            assert line.startswith("CommandError: No snapshot: BrokerUnavailable: ")
            assert PASSWORD not in line

    def test_broker_silent__2_within_the_deadline(
        self, make_broker: MakeBroker, use: Use, settings: Any
    ) -> None:
        settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "DEADLINE": 1.0}
        with silent_port() as port:
            use(make_broker(broker_url=f"redis://127.0.0.1:{port}/0"))
            started = time.monotonic()
            with pytest.raises(CommandError) as raised:
                call_command("celery_stats")
        assert raised.value.returncode == 2
        assert time.monotonic() - started < 2

    def test_celery_app_cannot_be_imported__2(self, settings: Any) -> None:
        settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.nowhere:app"}
        with pytest.raises(CommandError, match=r"CeleryAppNotFound: .*nowhere") as raised:
            call_command("celery_stats")
        assert raised.value.returncode == 2

    def test_unforeseen__2_and_where(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(broker_connection_timeout="soon"))
        assert (done.returncode, done.stdout) == (2, b"")
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("CommandError: No snapshot: SnapshotFailed: TypeError: ")
        assert re.search(r" \(report\.py:\d+ > snapshot\.py:\d+ > .*\)$", line)

    def test_url_that_is_wrong__2_and_the_reason(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(broker_url="redis://127.0.0.1:1/no-number"))
        assert (done.returncode, done.stdout) == (2, b"")
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("CommandError: No snapshot: BrokerUnavailable: ValueError: ")

    @pytest.mark.parametrize(
        ("args", "complaint"),
        [
            ({"worker": [""]}, "--worker: A value may not be empty."),
            ({"task_id": [""]}, "--task-id: A value may not be empty."),
            ({"task_id": ['"' * 256]}, "--task-id: A value may have at most 255 characters."),
            ({"task_id": ["a\x00b"]}, "--task-id: A value may not hold control characters."),
            (
                {"task_id": [f"x{n}" for n in range(101)]},
                "--task-id: At most 100 values are allowed.",
            ),
        ],
    )
    def test_beyond_the_limits_of_the_api__2(self, args: dict[str, Any], complaint: str) -> None:
        with pytest.raises(CommandError) as raised:
            call_command("celery_stats", **args)
        assert (raised.value.returncode, str(raised.value)) == (2, complaint)

    @pytest.mark.parametrize(
        ("args", "complaint"),
        [
            (["--field", "colour"], "invalid choice: 'colour'"),
            (["--timeout", "0"], "--timeout: Should be a positive number of seconds."),
            (["--timeout", "nan"], "--timeout: Should be a positive number of seconds."),
            (["--timeout", "soon"], "invalid float value: 'soon'"),
            (["--watch", "0.4"], "must be at least 0.5"),
        ],
    )
    def test_wrong_option__told(self, args: list[str], complaint: str) -> None:
        with pytest.raises(CommandError, match=re.escape(complaint)):
            call_command("celery_stats", *args)

    def test_unknown_option__2(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(), "--colour")
        assert (done.returncode, done.stdout) == (2, b"")

    def test_help__tells_the_statuses(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(), "--help", COLUMNS="200")
        assert done.returncode == 0
        assert "Exit status: 0 if every worker answered everything" in done.stdout.decode()


def test_documentation__names_every_option() -> None:
    parser = Command().create_parser("manage.py", "celery_stats")
    shared = BaseCommand().create_parser("manage.py", "other")
    own = {a.option_strings[0] for a in parser._actions} - {
        a.option_strings[0] for a in shared._actions
    }
    documented = re.findall(
        r"^\| `(--[a-z-]+)", (ROOT / "docs" / "command.md").read_text(), re.MULTILINE
    )
    assert sorted(documented) == sorted(own)


def test_help__what_stands_for_a_value() -> None:
    text = Command().create_parser("manage.py", "celery_stats").format_help()
    for option in ("--task-id ID", "--worker NAME", "--field {active,", "--timeout SECONDS"):
        assert f"\n  {option}" in text


def test_timeout__instead_of_the_setting(make_broker: MakeBroker, use: Use, settings: Any) -> None:
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 4.0}
    broker = use(make_broker())
    broker.fleet("one@t")[0].freeze()
    started = time.monotonic()
    with pytest.raises(CommandError, match=r"did not answer everything: one@t\.") as raised:
        call_command("celery_stats", timeout=0.2, stdout=StringIO())
    assert raised.value.returncode == 1
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent"])
def test_called_in_a_task__the_task_fails_and_the_pool_lives(
    make_broker: MakeBroker, pool: str
) -> None:
    broker = make_broker(result_backend="rpc://")
    broker.fleet("one@t", pool=pool, with_app=True)
    for name, message in (("a", "a."), ("b", "b.")):
        args = ["--worker", name, "--timeout", "0.2"]
        error = broker.app.send_task("tests.command", args).get(timeout=20, propagate=False)
        assert type(error).__name__ == "CommandError"
        assert str(error) == f"1 worker did not answer everything: {message}"
    if pool != "solo":  # A solo worker does not answer while it runs the task.
        assert broker.app.send_task("tests.command", ["--field", "stats"]).get(timeout=20) is None


@on_redis
def test_imports__neither_spectacular_nor_the_page(fleet: Broker) -> None:
    """The time of these imports would be part of each probe."""
    done = run_anew(fleet, "--json", "--field", "stats", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    modules = set(re.findall(r"\| +(\S+)$", done.stderr.decode(), re.MULTILINE))
    assert "celery_stats.report" in modules
    assert not modules & {
        "drf_spectacular.openapi",
        "celery_stats.page.fleet",
        "celery_stats.schema",
    }
    done = run_anew(fleet, "--field", "stats", PYTHONPROFILEIMPORTTIME="1")
    modules = set(re.findall(r"\| +(\S+)$", done.stderr.decode(), re.MULTILINE))
    assert "celery_stats.page.fleet" in modules
    assert not modules & {"rest_framework.views", "rest_framework.renderers", "wcwidth"}


class TestJson:
    def test_what_does_not_change__the_bytes_of_the_http_answer(
        self, busy_redis: Broker, use: Use, api: APIClient
    ) -> None:
        broker = use(busy_redis)
        active = json.loads(run(broker, "--json").stdout)["active"]
        (task_id,) = [task["id"] for tasks in active.values() for task in tasks]
        fields = [field for field in FIELDS if field != "stats"]
        response = api.get("/api/celery-stats/", {"field": fields, "task_id": task_id})
        assert "日本語" in response.content.decode()
        args = [f"--field={field}" for field in fields]
        ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for run_it, env in ((run, {}), (run_anew, ascii_only)):
            done = run_it(broker, "--json", *args, "--task-id", task_id, **env)
            assert (done.returncode, done.stderr) == (0, b"")
            assert done.stdout == response.content

    def test_two_workers__as_the_http_answer(
        self, fleet: Broker, use: Use, api: APIClient
    ) -> None:
        use(fleet)
        told = json.loads(run(fleet, "--json").stdout)
        answer = api.get("/api/celery-stats/").json()
        assert list(told) == list(answer) == list(FIELDS)
        for stats in (*told["stats"].values(), *answer["stats"].values()):
            for key in ("clock", "uptime", "rusage"):
                del stats[key]
        assert told == answer

    def test_called_by_code__what_it_writes_to(self, fleet: Broker, use: Use) -> None:
        use(fleet)
        stream = StringIO()
        call_command("celery_stats", "--json", "--field", "revoked", stdout=stream)
        revoked = {"one@fleet": [], "two@fleet": []}
        assert json.loads(stream.getvalue()) == {**dict.fromkeys(FIELDS), "revoked": revoked}

    def test_no_worker__six_nulls(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(), "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout) == dict.fromkeys(FIELDS)


class TestOnATerminal:
    def test_workers_and_tasks__one_line_for_each(self, busy_redis: Broker) -> None:
        lines = ANSI.sub("", run_in_terminal(busy_redis)).split("\n")
        assert re.fullmatch(rf"2 workers answered in [\d.]+ ms at {CLOCK}\.", lines[0])
        assert re.split("  +", lines[2]) == [
            *("Worker", "Busy", "Reserved", "Scheduled", "Processed", "Uptime", "Revoked", "Pool")
        ]
        assert [re.split("  +", line)[0] for line in lines[3:5]] == ["one@t", "two@t"]
        assert sorted(re.split("  +", line)[1] for line in lines[3:5]) == ["0 of 1", "1 of 1"]
        assert re.split("  +", lines[6]) == ["Running for", "Task", "Worker", "Id"]
        assert re.fullmatch(
            r"(\d+ min|(\d+ min )?\d+ s) +tests\.nap  (one|two)@t +[0-9a-f-]{36}", lines[7]
        )
        assert PASSWORD not in "".join(lines)

    @on_redis
    @pytest.mark.parametrize(
        ("args", "env", "coloured"),
        [
            ([], {}, True),
            (["--no-color"], {}, False),
            ([], {"NO_COLOR": "1"}, False),
            ([], {"DJANGO_COLORS": "nocolor"}, False),
        ],
    )
    def test_colours(
        self, fleet: Broker, args: list[str], env: dict[str, str], coloured: bool
    ) -> None:
        assert bool(ANSI.search(run_in_terminal(fleet, *args, **env))) is coloured

    def test_no_colour__the_error_neither(self, make_broker: MakeBroker) -> None:
        broker = make_broker(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        assert ANSI.search(run_in_terminal(broker))
        assert not ANSI.search(run_in_terminal(broker, NO_COLOR="1"))

    def test_json__ends_the_line(self, make_broker: MakeBroker) -> None:
        shown = run_in_terminal(make_broker(), "--json", NO_COLOR="1")
        assert shown.endswith('"stats":null}\nCommandError: No worker answered.\n')

    def test_json__nothing_that_a_terminal_obeys(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        sent = "\x9b31mred\u202eé\U000e0041"

        def answer(mailbox: Mailbox, command: dict[str, Any]) -> None:
            body = [sent] if command["method"] == "revoked" else {"ok": "pong"}
            mailbox.reply(command, {mailbox.name: body})

        with Mailbox(broker, "one@t", answer):
            shown = run_in_terminal(broker, "--json", "--field", "revoked")
        text = shown.splitlines()[0]
        assert r'["\u009b31mred\u202eé\udb40\udc41"]' in text
        assert json.loads(text)["revoked"] == {"one@t": [sent]}


class TestInAPipe:
    @on_redis
    def test_colours__only_where_forced(self, fleet: Broker) -> None:
        assert not ANSI.search(run(fleet).stdout.decode())
        assert ANSI.search(run(fleet, "--force-color").stdout.decode())

    @on_redis
    @pytest.mark.parametrize("option", [(), ("--json",), ("--watch",), ("--watch", "--json")])
    @pytest.mark.parametrize("unbuffered", [False, True])
    def test_reader_gone__the_status_and_no_word(
        self, fleet: Broker, option: tuple[str, ...], unbuffered: bool
    ) -> None:
        ours, theirs = os.pipe()
        os.close(ours)  # As ``head`` does after its last line.
        if unbuffered:
            done = run(fleet, *option, stdout=theirs, PYTHONUNBUFFERED="1")
        else:
            # The interpreter writes what is left in the buffer when it ends.
            done = run_anew(fleet, *option, stdout=theirs)
        os.close(theirs)
        assert (done.returncode, done.stderr) == (0, b"")

    @on_redis
    @pytest.mark.parametrize("option", [(), ("--json",)])
    def test_reader_gone_and_a_worker_missing__1(
        self, fleet: Broker, option: tuple[str, ...]
    ) -> None:
        ours, theirs = os.pipe()
        os.close(ours)
        args = ("--worker", "nobody@t", "--timeout", "0.2", *option)
        done = run(fleet, *args, stdout=theirs, PYTHONUNBUFFERED="1")
        os.close(theirs)
        assert done.returncode == 1
        assert done.stderr.endswith(b"did not answer everything: nobody@t.\n")

    @on_redis
    def test_encoding_without_the_dash__question_mark(self, fleet: Broker) -> None:
        done = run_anew(fleet, "--task-id", "naïve", PYTHONIOENCODING="ascii")
        assert done.returncode == 0
        assert "\nna?ve\n  No worker that answered knows it.\n" in done.stdout.decode()


class TestWatch:
    def test_terminal__in_place_and_as_large_as_it_is(self, make_broker: MakeBroker) -> None:
        broker = make_broker("redis", "one@t")
        with Terminal(broker, "--watch", "0.5") as terminal:
            terminal.shows("one@t   0 of 1")
            broker.send("x", seconds=600)
            terminal.shows("one@t   1 of 1")
            assert terminal.interrupt() == (0, "^C\n")
        # Between two snapshots, it follows the size of the terminal.
        with Terminal(broker, "--watch", "600") as terminal:
            whole = terminal.shows("tests.nap")
            assert re.split("  +", whole[5]) == ["Running for", "Task", "Worker", "Id"]
            terminal.resize(30, 6)
            small = terminal.shows("more lines")
            assert small[1:] == [
                *("", "Worker  Busy    Reserved  Sc…", "one@t   1 of 1         0    …"),
                f"{len(whole) - 4} more lines",
            ]
            terminal.resize(100, 24)
            terminal.shows("tests.nap")
            assert terminal.interrupt() == (0, "^C\n")
            # There is no other sequence, because nothing would restore the terminal after a kill.
            assert set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", ANSI.sub("", terminal.seen))) == {
                *("\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J")
            }

    def test_broker_away_and_back__one_line_and_on(self, make_broker: MakeBroker) -> None:
        redis = RedisServer()
        try:
            broker = make_broker(broker_url=f"redis://127.0.0.1:{redis.port}/0")
            (worker,) = broker.fleet("one@t")
            with Terminal(broker, "--watch", "0.5") as terminal:
                terminal.shows("1 worker answered")
                redis.stop()
                (line,) = terminal.shows("No snapshot")
                assert line.startswith("No snapshot: BrokerUnavailable: ")
                redis = RedisServer(port=redis.port)
                terminal.shows("1 worker answered")
                worker.kill()
                terminal.shows("one@t did not answer anything.")
                status, last = terminal.interrupt()
                assert status == 1
                assert ANSI.sub("", last) == (
                    f"^C\n{FORGET.replace('two', 'one')}\n"
                    "CommandError: 1 worker did not answer everything: one@t.\n"
                )
        finally:
            redis.stop()

    def test_ctrl_c_while_asking__the_status_of_the_last_snapshot(
        self, make_broker: MakeBroker, use: Use, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(make_broker())
        taken = [Report(ANSWERS, {"b@h": ("stats",)}, NOW, 0.01), Report(ANSWERS, {}, NOW, 0.01)]

        def get_report(*args: Any) -> Report:
            if not taken:
                raise KeyboardInterrupt
            return taken.pop(0)

        monkeypatch.setattr(celery_stats, "share_report", get_report)
        stream = StringIO()
        call_command("celery_stats", watch=0.01, stdout=stream)
        assert stream.getvalue().count("1 worker answered in 10 ms") == 2

    def test_broker_lost_after_a_snapshot__2(self, own_redis: RedisServer) -> None:
        broker = Broker("redis", f"redis://127.0.0.1:{own_redis.port}/0")
        try:
            broker.fleet("one@t")
            with Watching(broker, "--json") as process:
                assert list(json.loads(process.stdout.readline())["stats"]) == ["one@t"]
                own_redis.stop()
                assert process.stderr.readline().startswith(b"No snapshot: BrokerUnavailable: ")
                status, _, _ = process.interrupt()
        finally:
            broker.close()
        assert status == 2

    def test_broker_away_at_the_end__2(self, make_broker: MakeBroker) -> None:
        broker = make_broker(broker_url=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
        with Terminal(broker, "--watch") as terminal:
            terminal.shows("No snapshot")
            status, last = terminal.interrupt()
            assert status == 2
            error = r"\^C\nCommandError: No snapshot: BrokerUnavailable: .*\n"
            assert re.fullmatch(error, ANSI.sub("", last))
            assert PASSWORD not in terminal.seen

    def test_reader_gone_and_never_a_snapshot__2(self, make_broker: MakeBroker) -> None:
        broker = make_broker(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        with Watching(broker) as process:
            assert process.stderr.readline().startswith(b"No snapshot: BrokerUnavailable: ")
            status, last = process.hang_up()
        assert status == 2
        assert last.startswith(b"CommandError: No snapshot: BrokerUnavailable: ")

    def test_reader_gone_and_broker_lost_after_a_snapshot__2(
        self, alone: Broker, own_redis: RedisServer
    ) -> None:
        alone.fleet("one@t")
        with Watching(alone) as process:
            assert process.stdout.readline().startswith(b"1 worker answered")
            own_redis.stop()
            assert process.stderr.readline().startswith(b"No snapshot: BrokerUnavailable: ")
            status, last = process.hang_up()
        assert status == 2
        assert last.startswith(b"CommandError: No snapshot: BrokerUnavailable: ")

    @on_redis
    def test_pipe__snapshot_below_snapshot(self, fleet: Broker) -> None:
        with Watching(fleet) as process:
            # The summary, the table of two workers and the queue, with an empty line after each.
            lines = [process.stdout.readline().decode() for _ in range(18)]
            status, _, complaint = process.interrupt()
        shapes = [re.sub(r"[\d.:]+", "#", line.split("  ")[0]).strip() for line in lines]
        assert shapes[:3] == ["# workers answered in # ms at #", "", "Worker"]
        assert shapes[:9] == shapes[9:]
        assert "\x1b" not in "".join(lines)
        assert (status, complaint) == (0, b"")

    @on_redis
    def test_json__a_line_for_each(self, fleet: Broker) -> None:
        with Watching(fleet, "--json") as process:
            for _ in range(2):
                snapshot = json.loads(process.stdout.readline())
                assert list(snapshot["stats"]) == ["one@fleet", "two@fleet"]
            status, _, complaint = process.interrupt()
        assert (status, complaint) == (0, b"")

    def test_json_and_broker_away__nothing_in_stdout(self, make_broker: MakeBroker) -> None:
        broker = make_broker(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        with Watching(broker, "--json") as process:
            for _ in range(2):
                assert process.stderr.readline().startswith(b"No snapshot: BrokerUnavailable: ")
            status, written, _ = process.interrupt()
        assert (status, written) == (2, b"")
