"""Workers with the app: everything in one reply, of one moment, harmless; and all others."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from celery.worker.control import Panel

from celery_stats import worker
from celery_stats.control.broker import connections_for
from celery_stats.control.messages import decode_joint_reply
from celery_stats.control.question import ARGUMENT, Extras, Question
from celery_stats.control.snapshot import Snapshot
from celery_stats.shapes import FIELDS
from tests.asking import TIMEOUT, everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker
from tests.celery_app import ODD, ODD_AS_JSON
from tests.comparison import without_what_changes
from tests.conftest import KINDS
from tests.mailbox import Mailbox
from tests.moments import watch
from tests.pools import POOLS
from tests.processes import run_python, wait_until


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
        assert json.loads(found[ARGUMENT]) == {
            "time": pytest.approx(time.time(), abs=60),
            "replies": {"active": [{"args": [1, 2], "worker": "me"}], "stats": {"pid": 42}},
        }

    def test_extras__read_as_they_were_sent(self, handlers: dict[str, worker.Handler]) -> None:
        before = time.time()
        found = worker.answer(handlers["stats"], handlers, "me", **{ARGUMENT: {"stats": {}}})
        replies, extras = decode_joint_reply(found[ARGUMENT], ["stats", "active"])
        assert replies == {"stats": {"pid": 42}}
        assert extras.time is not None
        assert before <= extras.time <= time.time()

    @pytest.mark.parametrize("odd", [None, "noon", True, [], {}, 1e300, float("nan")])
    def test_extras_of_another_shape__none(self, odd: Any) -> None:
        text = json.dumps({"time": odd, "of_tomorrow": 1, "replies": {"stats": {}}})
        assert decode_joint_reply(text, ["stats"]) == ({"stats": {}}, Extras())

    def test_handler_that_fails__an_error_and_the_others_whole(
        self, handlers: dict[str, worker.Handler]
    ) -> None:
        asked: dict[str, Any] = {"stats": {}, "reserved": {}}
        found = worker.answer(handlers["stats"], handlers, "me", **{ARGUMENT: asked})
        assert json.loads(found[ARGUMENT])["replies"] == {
            "reserved": {"error": "RuntimeError('no list today')"},
            "stats": {"pid": 42},
        }


def test_celery_has_what_is_wrapped() -> None:
    """``Panel.data`` is not documented; without it a worker would answer as Celery made it."""
    assert set(FIELDS) <= set(Panel.data)


def test_web_process__imports_nothing_of_the_worker() -> None:
    code = (
        "import django, sys; django.setup(); import celery_stats.urls;"
        "print([m for m in sys.modules if m.startswith('celery.worker')])"
    )
    done = run_python(code)
    assert done.stdout == "[]\n", done.stderr


class TestAsking:
    def test_workers_with_the_app__one_message(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly) as one,
            Mailbox(broker, "two@t", Mailbox.answer_jointly),
        ):
            for _ in range(3):
                assert workers_by_field(take(broker.app)) == everywhere("one@t", "two@t")
        assert one.heard == ["stats"] * 3

    def test_workers_without_it__six_messages_each_time(
        self, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are asked for the rest at once, and not because a ping shows that they owe it."""
        monkeypatch.setattr("celery_stats.control.collector.TRY_MORE_SHARE", 2)
        monkeypatch.setattr("celery_stats.control.presence.base.PING_AFTER", 2 * TIMEOUT)
        broker = make_broker()
        with Mailbox(broker, "plain@t", Mailbox.answer) as plain:
            for _ in range(2):
                assert workers_by_field(take(broker.app)) == everywhere("plain@t")
        assert sorted(plain.heard) == sorted([*FIELDS, *FIELDS])

    def test_both_kinds__the_rest_asked_of_those_without_it_alone(
        self, make_broker: MakeBroker
    ) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly) as one,
            Mailbox(broker, "plain@t", Mailbox.answer) as plain,
        ):
            for _ in range(2):
                assert workers_by_field(take(broker.app)) == everywhere("one@t", "plain@t")
        assert one.heard == ["stats"] * 2
        assert sorted(plain.heard) == sorted([*FIELDS, *FIELDS])

    @pytest.mark.parametrize(
        "text",
        [
            '{"stats": {}, "active": []}',
            '{"time": "noon", "replies": {"stats": {}, "active": [], "of_tomorrow": 1}}',
            '{"replies": 1}',
            '{"stats": {}',
            "[]",
            '["stats"]',
            "[" * 100_000,
        ],
    )
    def test_release_that_answers_otherwise__asked_for_the_rest_as_before(
        self, make_broker: MakeBroker, text: str
    ) -> None:
        def other(mailbox: Mailbox, command: dict[str, Any]) -> None:
            if len(command["arguments"].get(ARGUMENT, ())) > 1:
                mailbox.reply(command, {mailbox.name: {ARGUMENT: text}})
            else:
                mailbox.answer(command)

        broker = make_broker()
        with Mailbox(broker, "other@t", other) as mailbox:
            snapshot = take(broker.app)
        assert workers_by_field(snapshot) == everywhere("other@t")
        assert len(snapshot.answers["revoked"]["other@t"]) == 5  # type: ignore[index]
        assert "revoked" in mailbox.heard

    def test_one_field__asked_for_alone(self, make_broker: MakeBroker) -> None:
        broker = make_broker()
        with (
            Mailbox(broker, "one@t", Mailbox.answer_jointly) as one,
            Mailbox(broker, "plain@t", Mailbox.answer) as plain,
        ):
            snapshot = take(broker.app, fields=("active",))
        assert list(snapshot.answers["active"] or ()) == ["one@t", "plain@t"]
        assert one.heard == plain.heard == ["active"]


def test_real_worker__everything_with_the_argument_and_as_always_without(
    make_broker: MakeBroker,
) -> None:
    broker = make_broker()
    broker.fleet("one@t", with_app=True)

    def ask(**arguments: Any) -> set[str]:
        [reply] = broker.app.control.broadcast(
            "stats", arguments=arguments, reply=True, timeout=TIMEOUT, limit=1
        )
        return set(reply["one@t"])

    assert ask(**Question().joint_argument(FIELDS)) == {ARGUMENT}
    assert ask() >= {"total", "pid", "pool", "broker"}
    assert ask().isdisjoint({ARGUMENT, *FIELDS})


def start_pools(broker: Broker, group: str, *, with_app: bool) -> list[str]:
    """Start one worker for each pool; return their names."""
    workers = [broker.start(f"{pool}@{group}", pool=pool, with_app=with_app) for pool in POOLS]
    # RabbitMQ lists no workers: the next snapshot shall listen for those that are new.
    connections_for(broker.app).roster.had_whole_window = False
    return [worker.ready().name for worker in workers]


def give_work(broker: Broker, names: list[str]) -> list[str]:
    """Give each worker a task for its ETA, one to run and one that waits; return their ids.

    A solo worker that runs a task answers nothing, so it gets the first one only.
    """
    control = broker.client().control
    task_ids = []
    for name in names:
        queue = f"{broker.namespace}.{name.replace('@', '.')}"
        broker.queues.append(queue)
        wait_until(partial(control.add_consumer, queue, destination=[name], reply=True, limit=1))
        send = partial(broker.app.send_task, "tests.nap", queue=queue)
        task_ids.append(send([1, "é"], countdown=3600).id)
        if not name.startswith("solo"):
            task_ids += [send([None, [1.5]], {"seconds": 600}).id for _ in range(2)]
    control.revoke([f"revoked of {names}"])

    def settled() -> bool:
        answers = take(broker.app, workers=tuple(names)).answers
        counts = {
            name: [len((answers[field] or {}).get(name) or ()) for field in FIELDS[:3]]
            for name in names
        }
        solo = {name: name.startswith("solo") for name in names}
        return counts == {name: [0, 1, 0] if solo[name] else [1, 1, 1] for name in names}

    wait_until(settled, what="each worker's tasks")
    return task_ids


def expect_as_inspect(broker: Broker, names: list[str], task_ids: Sequence[str] = ()) -> None:
    """Compare a snapshot with six ``inspect()`` calls."""
    snapshot = take(broker.app, task_ids=tuple(task_ids))
    assert workers_by_field(snapshot) == everywhere(*sorted(names))
    inspect = broker.client().control.inspect(timeout=TIMEOUT, limit=len(names))
    expected = {
        name: getattr(inspect, name)(*(task_ids if name == "query_task" else ()))
        for name in FIELDS
    }
    assert without_what_changes(dict(snapshot.answers)) == without_what_changes(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_fleet_without_the_app_then_mixed_then_with_it__as_six_inspect_calls(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind)
    plain = start_pools(broker, "plain", with_app=False)
    expect_as_inspect(broker, plain)
    task_ids = give_work(broker, plain)
    expect_as_inspect(broker, plain, task_ids)

    with_app = start_pools(broker, "app", with_app=True)
    expect_as_inspect(broker, plain + with_app, task_ids)
    task_ids += give_work(broker, with_app)
    expect_as_inspect(broker, plain + with_app, task_ids)

    for process in broker.workers[: len(plain)]:
        process.kill()
    expect_as_inspect(broker, with_app, task_ids)


def test_odd_arguments__nothing_lost_and_nobody_deaf(make_broker: MakeBroker) -> None:
    broker = make_broker()
    broker.fleet("one@t", with_app=True)
    for options in ({"countdown": 3600}, {}, {}):
        broker.send("x" * 5_000_000, seconds=600, serializer="pickle", **ODD, **options)

    def at_work() -> Snapshot | None:
        snapshot = take(broker.app)
        held = [snapshot.answers[name]["one@t"] for name in ("active", "reserved", "scheduled")]  # type: ignore[index]
        return snapshot if all(held) else None

    snapshot = wait_until(at_work, what="odd tasks under three keys")
    assert snapshot.missing == {}
    active, scheduled, reserved = (snapshot.answers[name]["one@t"] for name in FIELDS[:3])
    for [task] in (active, reserved, [scheduled[0]["request"]]):
        assert [len(text) for text in task["args"]] == [5_000_000]
        assert task["kwargs"] == {"seconds": 600, **ODD_AS_JSON}
    assert broker.client().control.ping(timeout=2, limit=1) == [{"one@t": {"ok": "pong"}}]


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_tasks_that_move__each_under_one_key_of_each_snapshot(
    make_broker: MakeBroker, kind: str, pool: str
) -> None:
    broker = make_broker(kind, worker_prefetch_multiplier=100)
    broker.fleet("one@t", pool=pool, with_app=True)
    found = watch(
        broker, pool, 60, lambda ids: take(broker.app, timeout=2, task_ids=tuple(ids)).answers
    )
    assert found.seen
    assert found.moved or pool == "solo"
    assert (found.twice, found.lost) == (set(), set())


def test_workers_without_the_app__log_nothing(make_broker: MakeBroker) -> None:
    broker = make_broker()
    [plain, _one] = [*broker.fleet("plain@t"), *broker.fleet("one@t", with_app=True)]
    before = plain.log.read_text()
    for _ in range(5):
        assert workers_by_field(take(broker.app)) == everywhere("one@t", "plain@t")
    assert plain.log.read_text() == before
