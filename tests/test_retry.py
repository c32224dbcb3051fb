"""Asking again for answers that got lost."""

from __future__ import annotations

import threading
from typing import Any

from tests.asking import everywhere, take, workers_by_field
from tests.brokers import MakeBroker
from tests.mailbox import Mailbox


def test_worker_that_owes_an_answer_later_than_others__asked_again_too(
    make_broker: MakeBroker,
) -> None:
    """It is busy while the first worker is asked again, and loses an answer after that."""
    broker = make_broker()
    first_is_asked_again = threading.Event()

    def first(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if mailbox.heard.count("active") == 2:
            first_is_asked_again.set()
        if command["method"] != "active" or first_is_asked_again.is_set():
            mailbox.answer(command)

    def late(mailbox: Mailbox, command: dict[str, Any]) -> None:
        assert first_is_asked_again.wait(20)
        if command["method"] != "revoked" or mailbox.heard.count("revoked") == 2:
            mailbox.answer(command)

    with Mailbox(broker, "first@t", first), Mailbox(broker, "late@t", late) as mailbox:
        snapshot = take(broker.app)
    assert workers_by_field(snapshot) == everywhere("first@t", "late@t")
    assert snapshot.missing == {}
    assert mailbox.heard.count("revoked") == 2


def test_answer_that_is_always_lost__each_field_asked_for_twice_more(
    make_broker: MakeBroker,
) -> None:
    """Plainly first, and ``active`` also with all arguments as text."""
    broker = make_broker()
    asked: list[tuple[str, Any]] = []

    def forgetful(mailbox: Mailbox, command: dict[str, Any]) -> None:
        asked.append((command["method"], command["arguments"].get("safe")))
        if command["method"] not in ("active", "reserved"):
            mailbox.answer(command)

    with Mailbox(broker, "one@t", forgetful):
        snapshot = take(broker.app)
    assert snapshot.missing == {"one@t": ("active", "reserved")}
    owed = [command for command in asked if command[0] in ("active", "reserved")]
    assert sorted(owed[:2]) == [("active", None), ("reserved", None)]
    assert owed[2:] == [
        *(("active", None), ("active", True), ("reserved", None)),
        *(("active", True), ("reserved", None)),
    ]


def test_more_workers_than_are_asked_again__the_others_missing(make_broker: MakeBroker) -> None:
    broker = make_broker()
    names = [f"{number:03}@made-up" for number in range(150)]

    def many(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "stats":
            for name in names:
                mailbox.reply(command, {name: {}})
        if command["method"] == "ping":
            for name in names:
                mailbox.reply(command, {name: {"ok": "pong"}})

    with Mailbox(broker, "many@t", many), Mailbox(broker, "one@t", Mailbox.answer):
        snapshot = take(broker.app, 0.5)
    assert workers_by_field(snapshot)["active"] == ["one@t"]
    assert sorted(snapshot.missing) == sorted([*names, "many@t"])
