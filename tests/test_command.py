"""``manage.py celery_stats``: its exit status, its text and its JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from celery_stats.control.question import FIELDS, Question
from celery_stats.management import text
from celery_stats.report import Report
from tests.answers import ANSWER, EMPTY, STATS, TASK
from tests.support import ROOT, Broker, RedisServer, free_port, silent_port, wait_until

MakeBroker = Callable[..., Broker]
Use = Callable[[Broker], Broker]

COMMAND = (sys.executable, "-m", "django", "celery_stats")
PASSWORD = "hunter2"
TITLES = ["Worker", "Pool", "Concurrency", "Active", "Reserved", "Scheduled", "Revoked"]
TITLES += ["Processed", "Uptime"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def environment(config: Mapping[str, Any], **env: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CELERY_STATS_TEST_CONFIG": json.dumps(config),
        **env,
    }


def run(broker: Broker, *args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a shell would, in a pipe."""
    return subprocess.run(
        [*COMMAND, *args],
        cwd=ROOT,
        env=environment(broker.config, **env),
        capture_output=True,
        timeout=30,
        check=False,
    )


def run_in_terminal(broker: Broker, *args: str, columns: int = 100, **env: str) -> str:
    """Return what a terminal of so many columns gets to see."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", f'stty cols {columns}; exec "$0" "$@"', *COMMAND, *args],
        cwd=ROOT,
        env=environment(broker.config, TERM="xterm-256color", **env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # EIO: the other end is closed
        while data := os.read(ours, 65536):
            seen += data
    os.close(ours)
    process.wait(10)
    return seen.decode().replace("\r\n", "\n")


def busy(broker: Broker) -> Broker:
    """Two workers, one with a task that runs and one that waits."""
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
    def test_all_answered__0(self, fleet: Broker) -> None:
        done = run(fleet)
        assert (done.returncode, done.stderr) == (0, b"")
        assert "2 workers answered" in done.stdout.decode()

    def test_no_worker__1(self, make_broker: MakeBroker) -> None:
        done = run(make_broker(), "--field", "stats")
        assert (done.returncode, done.stdout, done.stderr) == (1, b"No worker answered.\n", b"")

    def test_no_worker_and_a_backlog__1_and_the_queue(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        broker.send()
        done = run(broker)
        assert (done.returncode, done.stderr) == (1, b"")
        queue = f"{broker.namespace}.tasks"
        assert done.stdout.decode().splitlines() == [
            "No worker answered.",
            "",
            f"{'Queue':<{len(queue)}}  Waiting",
            f"{queue}        1",
        ]

    def test_silent_worker__1_and_named(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        _, frozen = broker.fleet("one@t", "two@t")
        frozen.freeze()
        done = run(broker, "--timeout", "0.5")
        assert done.returncode == 1
        assert "1 worker answered" in done.stdout.decode()
        assert done.stdout.decode().endswith("\ntwo@t did not answer anything.\n")
        done = run(broker, "--timeout", "0.5", "--json")
        assert done.returncode == 1
        assert done.stderr.startswith(b"two@t did not answer anything.\nIf two@t is gone for good")
        assert list(json.loads(done.stdout)["stats"]) == ["one@t"]

    @pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
    @pytest.mark.parametrize("options", [{}, {"global_keyprefix": "shop's:"}])
    def test_killed_worker__how_to_forget_it(
        self, make_broker: MakeBroker, options: dict[str, str]
    ) -> None:
        broker = make_broker(broker_transport_options=options)
        _one, two = broker.fleet("one@t", "two@t")
        two.kill()
        done = run(broker, "--timeout", "0.5")
        assert done.stdout.decode().endswith("\ntwo@t did not answer anything.\n")
        (line,) = done.stderr.decode().splitlines()
        words, _, command = line.partition(": ")
        assert words == "If two@t is gone for good"
        assert subprocess.check_output(["sh", "-c", command]).strip() == b"1"
        done = run(broker)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_unknown_worker__1_and_named(self, fleet: Broker) -> None:
        done = run(fleet, "--worker", "one@fleet", "--worker", "nobody@t", "--field", "stats")
        assert done.returncode == 1
        assert "one@fleet" in done.stdout.decode()
        assert done.stdout.decode().endswith("\nnobody@t did not answer anything.\n")

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
        done = run(make_broker(broker_url="redis://127.0.0.1:1/no-number"))
        assert (done.returncode, done.stdout) == (2, b"")
        *log, line = done.stderr.decode().splitlines()
        assert line == "CommandError: No snapshot: SnapshotFailed: ValueError"
        assert log[0].startswith("No snapshot, unexpectedly: ValueError")

    @pytest.mark.parametrize(
        ("args", "complaint"),
        [
            ({"worker": [""]}, "--worker: A value may not be empty."),
            ({"task_id": ["a\nb"]}, "--task-id: A value may not hold control characters."),
            ({"task_id": ["x"] * 101}, "--task-id: At most 100 values are allowed."),
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
            (["--timeout", "0"], "must be more than 0"),
            (["--timeout", "nan"], "must be more than 0"),
            (["--timeout", "soon"], "invalid seconds value: 'soon'"),
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


def test_timeout__instead_of_the_setting(make_broker: MakeBroker, use: Use, settings: Any) -> None:
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "TIMEOUT": 4.0}
    broker = use(make_broker())
    broker.fleet("one@t")[0].freeze()
    started = time.monotonic()
    with pytest.raises(SystemExit):
        call_command("celery_stats", timeout=0.2, stdout=StringIO())
    assert time.monotonic() - started < 2


def test_imports__neither_spectacular_nor_the_page(fleet: Broker) -> None:
    """Each probe pays for them."""
    done = run(fleet, "--json", "--field", "stats", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    modules = set(re.findall(r"\| +(\S+)$", done.stderr.decode(), re.MULTILINE))
    assert "celery_stats.report" in modules
    assert not modules & {"drf_spectacular.openapi", "celery_stats.page", "celery_stats.schema"}
    done = run(fleet, "--field", "stats", PYTHONPROFILEIMPORTTIME="1")
    modules = set(re.findall(r"\| +(\S+)$", done.stderr.decode(), re.MULTILINE))
    assert "celery_stats.page" in modules
    assert not modules & {"rest_framework.views", "rest_framework.renderers"}


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
        for env in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
            done = run(broker, "--json", *args, "--task-id", task_id, **env)
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
    def test_100_columns__one_line_for_each(self, busy_redis: Broker) -> None:
        lines = ANSI.sub("", run_in_terminal(busy_redis)).split("\n")
        assert re.findall(r"\w+", lines[2]) == TITLES
        assert [line.split()[:3] for line in lines[3:5]] == [
            ["one@t", "prefork", "1"],
            ["two@t", "prefork", "1"],
        ]
        assert lines[6].split() == ["Running", "task", "Id", "For", "Worker"]
        assert re.fullmatch(
            r"tests\.nap     [0-9a-f-]{36}  (\d+ min|(\d+ min )?\d+ s) +(one|two)@t", lines[7]
        )
        assert PASSWORD not in "".join(lines)

    def test_60_columns__nothing_beyond(self, busy_redis: Broker) -> None:
        lines = ANSI.sub("", run_in_terminal(busy_redis, columns=60)).split("\n")
        assert max(map(len, lines)) <= 60
        assert any(re.search(r"[0-9a-f-]{36}", line) for line in lines)

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
        assert run_in_terminal(make_broker(), "--json").endswith("}\n")


class TestInAPipe:
    @on_redis
    def test_colours__only_where_forced(self, fleet: Broker) -> None:
        assert not ANSI.search(run(fleet).stdout.decode())
        assert ANSI.search(run(fleet, "--force-color").stdout.decode())

    def test_lines__cut_only_where_columns_are_set(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        name = f"{'w' * 200}@t"
        assert f"\n{name} did" in run(broker, "--worker", name).stdout.decode()
        narrow = run(broker, "--worker", name, COLUMNS="60").stdout.decode()
        assert max(map(len, narrow.split("\n"))) == 60

    @on_redis
    @pytest.mark.parametrize("option", [(), ("--json",)])
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_reader_gone__the_status_and_no_word(
        self, fleet: Broker, option: tuple[str, ...], unbuffered: str
    ) -> None:
        ours, theirs = os.pipe()
        os.close(ours)  # as ``head`` does when it has seen enough
        done = subprocess.run(
            [*COMMAND, *option],
            cwd=ROOT,
            env=environment(fleet.config, PYTHONUNBUFFERED=unbuffered),
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
        os.close(theirs)
        assert (done.returncode, done.stderr) == (0, b"")

    @on_redis
    def test_encoding_without_the_dash__question_mark(self, fleet: Broker) -> None:
        done = run(fleet, "--task-id", "naïve", PYTHONIOENCODING="ascii")
        assert done.returncode == 0
        assert re.search(r"^na\?ve +unknown +\?$", done.stdout.decode(), re.MULTILINE)


def report(
    data: Mapping[str, Any], missing: Mapping[str, tuple[str, ...]] | None = None
) -> Report:
    now = datetime.fromtimestamp(TASK["time_start"] + 65, timezone.utc)
    return Report({**EMPTY, **data}, missing or {}, now, 0.0123)


def written(report: Report, width: int = 100, **asked: Any) -> list[str]:
    return [line for line, _role in text.lines(report, Question(**asked), width)]


class TestText:
    def test_many_tasks__cut_and_counted(self) -> None:
        tasks = [{**TASK, "id": f"task-{n}"} for n in range(101)]
        found = written(report({"active": {"a@h": tasks}}))
        assert sum("task-" in line for line in found) == 100
        assert found[-1] == "Showing 100 of 101."

    def test_worker_and_task(self) -> None:
        assert written(report(ANSWER)) == [
            "1 worker answered in 12 ms.",
            "",
            "Worker  Pool     Concurrency  Active  Reserved  Scheduled  Revoked"
            "  Processed  Uptime",
            "a@h     prefork            4       1         0          0        0"
            "      1,500  1 day 2 h",
            "",
            "Running task   Id                                    For        Worker",
            "reports.build  82639d59-6704-4719-940c-b5595a8570f7  1 min 5 s  a@h",
        ]

    def test_60_columns(self) -> None:
        name = "celery@web-1.example.com"
        stats = {name: STATS, "a@h": STATS}
        assert written(report({**ANSWER, "stats": stats}), 60) == [
            "2 workers answered in 12 ms.",
            "",
            "Worker",
            "  Pool     Conc  Act  Res  Sch  Rev   Done  Uptime",
            "a@h",
            "  prefork     4    1    0    0    0  1,500  1 day 2 h",
            name,
            "  prefork     4    -    -    -    -  1,500  1 day 2 h".replace("-", text.NOTHING),
            "",
            "Running task",
            "  Id                                    For        Worker",
            "reports.build",
            "  82639d59-6704-4719-940c-b5595a8570f7  1 min 5 s  a@h",
        ]

    def test_fields_not_asked__no_columns(self) -> None:
        assert written(report({"revoked": {"a@h": ["x", "y"]}}), fields=("revoked",)) == [
            "1 worker answered in 12 ms.",
            "",
            "Worker  Revoked",
            "a@h           2",
        ]

    def test_look_ups(self) -> None:
        known = {"query_task": {"a@h": {TASK["id"]: ["active", TASK]}}}
        lines = written(report(known), task_ids=(TASK["id"], "nope"))
        assert lines[-3:] == [
            "Looked up                             State    Worker",
            "82639d59-6704-4719-940c-b5595a8570f7  active   a@h",
            f"nope                                  unknown  {text.NOTHING}",
        ]

    def test_owed_in_part(self) -> None:
        found = report(ANSWER, {"a@h": ("active", "stats")})
        lines = list(text.lines(found, Question(), 100))
        assert lines[-1] == ("a@h did not answer active, stats.", text.WARNING)
        assert (lines[0][1], lines[3][1]) == (text.WARNING, text.WARNING)

    def test_error_reply__told(self) -> None:
        lines = written(report({**ANSWER, "active": {"a@h": {"error": "no list today"}}}))
        assert lines[4] == "a@h: active: no list today"

    def test_wide_characters__aligned(self) -> None:
        stats = {"日本@h": STATS, "e\N{COMBINING ACUTE ACCENT}@h": STATS, "plain@h": STATS}
        lines = written(report({"stats": stats}))[2:]
        assert len({text.cells(line[: line.index("  1 day")]) for line in lines[1:]}) == 1


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202eevil\u200b\x9b31m\ud800" + "x" * 300


def shows_nothing_odd(lines: list[str], width: int) -> None:
    for line in lines:
        assert line.isprintable()
        assert text.cells(line) <= width
    "\n".join(lines).encode()


@pytest.mark.parametrize("width", [30, 60, 100])
def test_hostile_names__escaped_and_within_the_width(width: int) -> None:
    task = {**TASK, "id": HOSTILE, "name": HOSTILE}
    stats = {**STATS, "pool": {"implementation": HOSTILE, "max-concurrency": HOSTILE}}
    data = {
        "active": {HOSTILE: [task]},
        "stats": {HOSTILE: stats, "b@h": {"error": HOSTILE}},
        "query_task": {HOSTILE: {HOSTILE: [HOSTILE, task]}},
    }
    found = report(data, {HOSTILE: ("active",), f"{HOSTILE}2": FIELDS})
    lines = written(found, width, task_ids=(HOSTILE,))
    shows_nothing_odd(lines, width)
    assert sum(r"\x1b[2J" in line for line in lines) >= 5


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(min_size=1, max_size=80)


@given(
    data=st.fixed_dictionaries(
        {field: st.none() | st.dictionaries(NAMES, ANYTHING, min_size=1) for field in FIELDS}
    ),
    missing=st.dictionaries(NAMES, st.just(("active",)), max_size=3),
    width=st.integers(20, 200),
)
def test_any_reply__within_the_width(
    data: dict[str, Any], missing: dict[str, tuple[str, ...]], width: int
) -> None:
    shows_nothing_odd(written(report(data, missing), width, task_ids=("a",)), width)
