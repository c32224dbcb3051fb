"""Nodes that behave as no real worker does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import kombu
from celery import Celery

from celery_stats.control.question import ARGUMENT
from tests.brokers import Broker
from tests.simulated import PONG, replies

OnCommand = Callable[["Mailbox", dict[str, Any]], None]


class Mailbox:
    """A worker's mailbox in this process, with a mind of its own.

    ``on_command`` gets it and every command that it receives, by the thread that listens.
    """

    def __init__(self, broker: Broker, name: str, on_command: OnCommand) -> None:
        self.name = name
        self.heard: list[str] = []
        #: Other names under which it is addressed.
        self.aliases: set[str] = set()
        #: Called every now and then.
        self.on_idle: Callable[[], None] = lambda: None
        self._on_command = on_command
        self._broker = broker
        self._ended = threading.Event()
        self._listening = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Mailbox:
        self._thread.start()
        assert self._listening.wait(10), self._error
        return self

    def end(self) -> None:
        """Stop listening and remove the mailbox, as a worker that is stopped does."""
        self._ended.set()

    def __exit__(self, *exc_info: object) -> None:
        self.end()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        app = self._broker.client()
        try:
            with app.connection_for_write() as connection:
                self._listen(app, connection)
        except BaseException as exc:  # noqa: BLE001 - raised where the mailbox is left
            self._error = exc
        finally:
            app.close()

    def _listen(self, app: Celery, connection: kombu.Connection) -> None:
        mailbox = app.control.mailbox(connection)
        mailbox.producer_pool = None
        self.channel = connection.channel()
        self.producer = kombu.Producer(self.channel, auto_declare=False)
        node = mailbox.Node(self.name, channel=self.channel)

        def on_message(body: dict[str, Any], message: Any) -> None:
            if not body["destination"] or {self.name, *self.aliases} & {*body["destination"]}:
                if body["method"] != "ping":
                    self.heard.append(body["method"])
                self._on_command(self, body)

        consumer = node.listen(callback=on_message)
        while not self._ended.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.02)
            self._listening.set()
            self.on_idle()
        consumer.cancel()
        mailbox.get_queue(self.name)(self.channel).delete()

    def reply(self, command: dict[str, Any], body: Any, **message: Any) -> None:
        """Publish to whom the command names; ``message`` is how, as kombu's Producer has it."""
        headers = {"ticket": command["ticket"], "clock": 1}
        self.producer.publish(body, **{**command["reply_to"], "headers": headers, **message})

    def answer_jointly(self, command: dict[str, Any]) -> None:
        """Reply as a worker with the app would."""
        asked = command["arguments"].get(ARGUMENT)
        if asked is None:
            self.answer(command)
        else:
            answers = {name: replies(self.name)[name] for name in asked}
            text = json.dumps({"time": 1.7e9, "replies": answers})
            self.reply(command, {self.name: {ARGUMENT: text}})

    def answer(self, command: dict[str, Any], name: str | None = None) -> None:
        """Reply as a real worker would."""
        name = name or self.name
        self.reply(command, {name: {**replies(name), **PONG}[command["method"]]})


def answer_after(event: threading.Event) -> OnCommand:
    """Return what replies as a real worker would, but not before the event."""

    def answer(mailbox: Mailbox, command: dict[str, Any]) -> None:
        assert event.wait(20)
        mailbox.answer(command)

    return answer


def answer_if(condition: Callable[[Mailbox, str], Any]) -> OnCommand:
    """Return what replies to the commands of which the condition is true, by their names."""

    def answer(mailbox: Mailbox, command: dict[str, Any]) -> None:
        if condition(mailbox, command["method"]):
            mailbox.answer(command)

    return answer
