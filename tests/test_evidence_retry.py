"""Redis and RabbitMQ: what is asked again, and replies that are lost or too large."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery_stats.shapes import FIELDS
from tests.asking import everywhere, take, workers_by_field
from tests.brokers import Broker, MakeBroker, deaf_afterwards
from tests.mailbox import Mailbox
from tests.processes import wait_until
from tests.test_evidence import WINDOW, accounted_for, on_both


@on_both
@deaf_afterwards
def test_two_ask_a_worker_that_loses_replies__accounted_for_in_both_answers(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind)
    [worker] = broker.fleet("one@t")
    for options in ({}, {}, {"countdown": 3600}):
        broker.send({1, 2}, seconds=600, serializer="pickle", **options)
    wait_until(lambda: worker.log.read_text().count("received") == 3, what="its tasks")
    apps = [broker.client() for _ in range(2)]
    for app in apps:  # Who has not heard it before cannot name it.
        assert accounted_for(take(app, 1.0)) == {"one@t"}
    with ThreadPoolExecutor() as pool:
        for _ in range(6):
            for snapshot in pool.map(lambda app: take(app, 1.0), apps):
                assert accounted_for(snapshot) == {"one@t"}


@on_both
def test_command_is_lost_again_and_its_ping_with_it__asked_once_more(
    make_broker: MakeBroker, kind: str
) -> None:
    """As where another caller's question makes the worker reset its mailbox meanwhile."""
    broker = make_broker(kind)
    lost: list[str] = []

    def loses_two(mailbox: Mailbox, command: dict[str, Any]) -> None:
        asked = mailbox.heard.count("revoked")
        is_ping = command["method"] == "ping" and asked == 2 and "ping" not in lost
        if is_ping or (command["method"] == "revoked" and asked <= 2):
            lost.append(command["method"])
        else:
            mailbox.answer(command)

    with Mailbox(broker, "one@t", loses_two):
        snapshot = take(broker.app, fields=("stats", "revoked"))
    assert workers_by_field(snapshot)["revoked"] == ["one@t"]
    assert snapshot.missing == {}


@on_both
def test_worker_answers_a_ping_while_it_resets_its_mailbox__what_is_sent_then_is_lost(
    make_broker: MakeBroker, kind: str
) -> None:
    """So it is asked on only when it has answered a second one."""
    broker = make_broker(kind)
    lost: list[str] = []
    pings_due = 0

    def resets_slowly(mailbox: Mailbox, command: dict[str, Any]) -> None:
        nonlocal pings_due
        method, is_safe = command["method"], command["arguments"].get("safe")
        if method == "ping":
            pings_due = max(pings_due - 1, 0)
            mailbox.answer(command)
        elif method == "scheduled" or (method == "active" and not is_safe) or pings_due:
            lost.append(method)
            pings_due = 2
        else:
            mailbox.answer(command)

    with Mailbox(broker, "one@t", resets_slowly):
        snapshot = take(broker.app, 1.0, fields=("stats", "scheduled", "active"))
    assert lost == ["scheduled", "active", "active", "scheduled", "scheduled"]
    assert workers_by_field(snapshot)["active"] == ["one@t"]
    assert snapshot.missing == {"one@t": ("scheduled",)}


def hold(broker: Broker, tasks: int, megabytes: int) -> Broker:
    """Start a worker with the app that holds tasks with arguments of this size each."""
    [worker] = broker.fleet("one@t", with_app=True)
    for _ in range(tasks):
        broker.send("x" * megabytes * 1_000_000, countdown=3600)
    wait_until(lambda: worker.log.read_text().count("received") == tasks, what="the tasks")
    return broker


@on_both
class TestLargeReply:
    def test_field_that_is_too_large_for_a_message__costs_only_itself(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = hold(make_broker(kind), tasks=9, megabytes=2)
        for _ in range(2):
            snapshot = take(broker.app, 2.0)
            assert workers_by_field(snapshot) == everywhere("one@t")
            assert snapshot.missing == {}
            too_large = (snapshot.answers["scheduled"] or {})["one@t"]["error"]
            assert re.fullmatch(r"the reply has 18,\d{3},\d{3} characters, and .*", too_large)
            assert (snapshot.answers["stats"] or {})["one@t"]["pool"]
        assert "Traceback" not in broker.workers[0].log.read_text()

    def test_field_that_is_too_large_for_one_message_with_the_others__asked_for_alone(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = hold(make_broker(kind), tasks=3, megabytes=2)
        snapshot = take(broker.app, 2.0)
        assert workers_by_field(snapshot) == everywhere("one@t")
        scheduled = (snapshot.answers["scheduled"] or {})["one@t"]
        assert [len(row["request"]["args"][0]) for row in scheduled] == [2_000_000] * 3
        assert snapshot.missing == {}

    def test_question_in_one_message__reply_of_little_more_than_1_mib(
        self, make_broker: MakeBroker, kind: str
    ) -> None:
        broker = hold(make_broker(kind), tasks=3, megabytes=2)
        questions: list[dict[str, Any]] = []
        with Mailbox(broker, "spy@t", lambda _, command: questions.append(command)):
            take(broker.app, WINDOW)
        [reply] = broker.client().control.broadcast(
            questions[0]["method"],
            arguments=questions[0]["arguments"],
            destination=["one@t"],
            reply=True,
            timeout=10,
            limit=1,
        )
        assert 1_000 < len(json.dumps(reply)) < 1_100_000


@on_both
def test_worker_restarts_with_the_app__asked_in_one_message_again(
    make_broker: MakeBroker, kind: str
) -> None:
    broker = make_broker(kind)
    with Mailbox(broker, "one@t", Mailbox.answer) as without:
        for _ in range(2):
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
    assert len(without.heard) == 2 * len(FIELDS)
    with Mailbox(broker, "one@t", Mailbox.answer_jointly) as with_app:
        for _ in range(3):
            assert workers_by_field(take(broker.app, WINDOW)) == everywhere("one@t")
    assert with_app.heard[-2:] == ["stats", "stats"]


def test_more_workers_than_are_asked_again__given_up_without_a_time_out(
    make_broker: MakeBroker,
) -> None:
    broker, patience = make_broker(), 40.0
    names = [f"{number:03}@made-up" for number in range(120)]

    def many(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] in ("stats", "ping"):
            for name in command["destination"] or names:
                mailbox.answer(command, name)

    with Mailbox(broker, names[0], many) as made_up, Mailbox(broker, "one@t", Mailbox.answer):
        made_up.aliases |= set(names)
        snapshot = take(broker.app, patience, 2 * patience, fields=("stats", "revoked"))
    assert workers_by_field(snapshot)["revoked"] == ["one@t"]
    assert sorted(snapshot.missing) == names
    assert snapshot.elapsed < patience
