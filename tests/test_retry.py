"""Asking again for answers that got lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from celery_stats.control import collector
from celery_stats.control.replies import Replies
from celery_stats.shapes import FIELDS
from tests.asking import everywhere, take, workers_by_field
from tests.brokers import MakeBroker
from tests.mailbox import Mailbox, answer_if
from tests.processes import wait_until
from tests.test_evidence import set_clock_ahead


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


def test_answer_that_is_always_lost__each_field_asked_for_again(
    make_broker: MakeBroker,
) -> None:
    """Plainly first, and ``active`` also with all arguments as text, which can always be sent."""
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
        *(("active", True), ("active", True)),
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


def test_worker_that_has_become_silent__asked_again_once(make_broker: MakeBroker) -> None:
    """Each further step would hold up the others that are asked again."""
    broker = make_broker()
    with Mailbox(broker, "one@t", answer_if(lambda _, method: method == "stats")) as mailbox:
        snapshot = take(broker.app, 1.0)
    assert snapshot.missing == {"one@t": FIELDS[:-1]}
    assert mailbox.heard[len(FIELDS) :] == ["revoked"]


def test_worker_that_was_given_up_answers__another_is_still_waited_for(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker()
    kept: list[Replies] = []
    owed: list[dict[str, Any]] = []
    never = threading.Event()

    def keep(*args: Any) -> Replies:
        kept.append(Replies(*args))
        return kept[-1]

    def is_whole(replies: Replies) -> bool:
        return "given@t" in replies.heard and not replies.owed_by("given@t")

    def loses_one(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "reserved":
            owed.append(command)
        else:
            mailbox.answer(command)

    def late(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] != "stats":
            wait_until(lambda: is_whole(kept[0]), what="the answer of the other")
            never.wait(0.1)
        mailbox.answer(command)

    monkeypatch.setattr(collector, "Replies", keep)
    with Mailbox(broker, "given@t", loses_one) as given, Mailbox(broker, "late@t", late):

        def answer_when_given_up() -> None:
            if owed and kept[0].is_done("given@t") and not is_whole(kept[0]):
                given.answer(owed[0])

        given.on_idle = answer_when_given_up
        snapshot = take(broker.app, 2.0)
    assert workers_by_field(snapshot) == everywhere("given@t", "late@t")


def test_plain_active_was_lost__safe_form_first_for_a_minute(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker()
    forms: list[Any] = []

    def loses_plain(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if command["method"] == "active":
            forms.append(command["arguments"].get("safe"))
        if command["method"] != "active" or forms[-1]:
            mailbox.answer(command)

    with Mailbox(broker, "one@t", loses_plain):
        for expected in ([None, None, True], [True], [True]):
            assert workers_by_field(take(broker.app)) == everywhere("one@t")
            assert forms == expected
            forms.clear()
        assert list(take(broker.app, fields=("active",)).answers["active"] or ()) == ["one@t"]
        assert forms == [True]
        forms.clear()
        set_clock_ahead(monkeypatch, 61.0)
        assert workers_by_field(take(broker.app)) == everywhere("one@t")
        assert forms[0] is None
