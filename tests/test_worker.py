"""Workers with the app: everything in one reply, of one moment, harmless; and all others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from celery_stats import worker
from celery_stats.control.question import ARGUMENT, FIELDS, Options, Question
from celery_stats.control.snapshot import Snapshot, take_snapshot
from tests.comparison import without_what_changes
from tests.support import ROOT, Broker, Mailbox, wait_until

MakeBroker = Callable[..., Broker]
TIMEOUT = 4.0


def take(app: Celery, timeout: float = TIMEOUT, **asked: Any) -> Snapshot:
    return take_snapshot(Question(**asked), Options(app, timeout, 20.0))


def answered(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return who stands under each key."""
    return {name: list(snapshot.answers[name] or ()) for name in FIELDS}


def everywhere(*workers: str) -> dict[str, list[str]]:
    return {name: list(workers) for name in FIELDS}


@pytest.fixture
def handlers() -> dict[str, worker.Handler]:
    def broken(state: Any) -> Any:
        raise RuntimeError("no list today")

    return {
        "active": lambda state, safe=None: [{"args": {1, 2}, "worker": state}],
        "stats": lambda state: {"pid": 42},
        "reserved": broken,
    }


class TestAnswer:
    def test_without_the_argument__the_built_in_command(
        self, handlers: dict[str, worker.Handler]
    ) -> None:
        assert worker.answer(handlers["stats"], handlers, "me") == {"pid": 42}

    @pytest.mark.parametrize("odd", [None, 1, "stats", ["stats"]])
    def test_argument_of_an_unknown_form__the_built_in_command(
        self, handlers: dict[str, worker.Handler], odd: Any
    ) -> None:
        found = worker.answer(handlers["stats"], handlers, "me", **{ARGUMENT: odd})
        assert found == {"pid": 42}

    def test_fields__what_is_known_of_them_as_json(
        self, handlers: dict[str, worker.Handler]
    ) -> None:
        asked = {"stats": {}, "active": {"safe": None}, "revoked": {}, "of_tomorrow": {}}
        found = worker.answer(handlers["stats"], handlers, "me", **{ARGUMENT: asked})
        assert found == {
            ARGUMENT: {"active": [{"args": [1, 2], "worker": "me"}], "stats": {"pid": 42}}
        }

    def test_handler_that_fails__an_error_and_the_others_whole(
        self, handlers: dict[str, worker.Handler]
    ) -> None:
        asked: dict[str, Any] = {"stats": {}, "reserved": {}}
        found = worker.answer(handlers["stats"], handlers, "me", **{ARGUMENT: asked})
        assert found == {
            ARGUMENT: {
                "reserved": {"error": "RuntimeError('no list today')"},
                "stats": {"pid": 42},
            }
        }


def test_celery_has_what_is_wrapped() -> None:
    """``Panel.data`` is not documented; without it a worker would answer as Celery made it."""
    assert set(FIELDS) <= set(Panel.data)


def test_web_process__imports_nothing_of_the_worker() -> None:
    code = (
        "import django, sys; django.setup(); import celery_stats.urls;"
        "print([m for m in sys.modules if m.startswith('celery.worker')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr


class TestAsking:
    def test_workers_with_the_app__one_message(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_together) as one,
            Mailbox(broker, "two@t", Mailbox.answer_together),
        ):
            for _ in range(3):
                assert answered(take(broker.app)) == everywhere("one@t", "two@t")
        assert one.heard == ["stats"] * 3

    def test_workers_without_it__six_messages_each_time(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        with Mailbox(broker, "plain@t", Mailbox.answer) as plain:
            for _ in range(2):
                assert answered(take(broker.app)) == everywhere("plain@t")
        assert sorted(plain.heard) == sorted([*FIELDS, *FIELDS])

    def test_both_kinds__the_rest_asked_of_those_without_it_alone(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_together) as one,
            Mailbox(broker, "plain@t", Mailbox.answer) as plain,
        ):
            for _ in range(2):
                assert answered(take(broker.app)) == everywhere("one@t", "plain@t")
        assert one.heard == ["stats"] * 2
        assert sorted(plain.heard) == sorted([*FIELDS, *FIELDS])

    def test_release_that_leaves_a_field_out__asked_for_as_before(
        self, make_broker: MakeBroker
    ) -> None:
        def older(mailbox: Mailbox, command: dict[str, Any]) -> None:
            asked = command["arguments"].get(ARGUMENT)
            if asked is None:
                mailbox.answer(command)
            else:
                known = {name: [] for name in asked if name != "revoked"}
                mailbox.reply(command, {mailbox.name: {ARGUMENT: {**known, "of_tomorrow": 1}}})

        broker = make_broker()
        with Mailbox(broker, "older@t", older) as mailbox:
            snapshot = take(broker.app)
        assert answered(snapshot) == everywhere("older@t")
        assert len(snapshot.answers["revoked"]["older@t"]) == 5  # type: ignore[index]
        assert "revoked" in mailbox.heard

    def test_one_field__asked_for_alone(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_together) as one,
            Mailbox(broker, "plain@t", Mailbox.answer) as plain,
        ):
            snapshot = take(broker.app, fields=("active",))
        assert list(snapshot.answers["active"] or ()) == ["one@t", "plain@t"]
        assert one.heard == plain.heard == ["active"]


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent"])
def test_real_worker__as_six_inspect_calls(make_broker: MakeBroker, pool: str) -> None:
    broker = make_broker()
    broker.fleet("one@t", pool=pool, with_app=True)
    task_id = broker.send(1, countdown=3600, city="Tallinn")
    broker.app.control.revoke(["revoked"])
    asked = (task_id, "unknown")

    snapshot = wait_until(
        lambda: (s := take(broker.app, task_ids=asked)).answers["scheduled"]["one@t"] and s,  # type: ignore[index]
        what="the task that is held",
    )
    inspect = broker.client().control.inspect(limit=1)
    expected = {
        name: getattr(inspect, name)(*(asked if name == "query_task" else ())) for name in FIELDS
    }
    assert without_what_changes(dict(snapshot.answers)) == without_what_changes(expected)


def test_odd_arguments__nothing_lost_and_nobody_deaf(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.fleet("one@t", with_app=True)
    odd: dict[str, Any] = {"set": {1, 2}, "nan": float("nan"), "bytes": b"\xff"}
    for options in ({"countdown": 3600}, {}, {}):
        broker.send({1, 2}, seconds=600, serializer="pickle", **odd, **options)

    def at_work() -> Snapshot | None:
        snapshot = take(broker.app)
        held = [snapshot.answers[name]["one@t"] for name in ("active", "reserved", "scheduled")]  # type: ignore[index]
        return snapshot if all(held) else None

    snapshot = wait_until(at_work, what="odd tasks under three keys")
    assert snapshot.missing == {}
    [task] = snapshot.answers["active"]["one@t"]  # type: ignore[index]
    assert task["args"] == [[1, 2]]
    assert task["kwargs"] == {"seconds": 600, "set": [1, 2], "nan": "NaN", "bytes": "\\xff"}
    assert broker.client().control.ping(timeout=2, limit=1) == [{"one@t": {"ok": "pong"}}]


def test_one_moment__no_task_under_two_keys_or_under_none(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.fleet("one@t", with_app=True, worker_prefetch_multiplier=100)
    task_ids = {broker.send(seconds=0.01) for _ in range(60)}
    seen = set()
    while len(seen) < 20:
        answers = take(broker.app).answers
        active = {task["id"] for task in answers["active"]["one@t"]}  # type: ignore[index]
        reserved = {task["id"] for task in answers["reserved"]["one@t"]}  # type: ignore[index]
        assert not active & reserved
        seen |= active
        if not active | reserved:
            break
    assert seen <= task_ids


def test_workers_without_the_app__log_nothing(make_broker: MakeBroker) -> None:
    broker = make_broker()
    [plain, _one] = [
        *broker.fleet("plain@t"),
        *broker.fleet("one@t", with_app=True),
    ]
    before = plain.log.read_text()
    for _ in range(5):
        assert answered(take(broker.app)) == everywhere("one@t", "plain@t")
    assert plain.log.read_text() == before
