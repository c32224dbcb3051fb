"""A broker, its nodes and its askers as a model, in virtual time.

The clock moves only while somebody waits, so an hour takes no time. :class:`Connection` has the
methods of a :class:`~celery_stats.control.connection.ControlConnection` that ``control/`` uses.
Everything that happens to the fleet is a method of :class:`Broker`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from celery_stats.control.connection import PING
from celery_stats.control.exceptions import BrokerUnavailable
from celery_stats.control.question import ARGUMENT, REPLIES


@dataclass(eq=False)
class Node:
    """Whoever has a mailbox.

    Attributes:
        name: several nodes can have the same on Redis.
        kind: ``app`` and ``plain`` are workers, with this app and without it; a ``beat`` answers
            pings only; a ``foreign`` subscriber answers nothing.
        delay: seconds that it takes to answer a command.
        unencodable: the fields whose reply it cannot encode. Without the app it drops the reply
            and resets its mailbox.
        too_large: the fields that do not fit into a joint reply, and are answered alone.
        reset_takes: seconds for which its mailbox is away then.
        loses: the number of its next replies that get lost on the way.
        unreadable: whether the asker may not decode its replies.
        changed_at: when something last happened to it that its own answers did not cause.
        answered_at: ticket to the time of its reply; None for a reply that got lost.
        works_at: when it answers the first command in its mailbox.
    """

    name: str
    kind: str = "app"
    delay: float = 0.001
    unencodable: Collection[str] = ()
    too_large: frozenset[str] = frozenset()
    reset_takes: float = 0.02
    alive: bool = True
    frozen: bool = False
    connected: bool = False
    loses: int = 0
    unreadable: bool = False
    changed_at: float = 0.0
    works_at: float = 0.0
    inbox: deque[Command] = field(default_factory=deque)
    answered_at: dict[str, float | None] = field(default_factory=dict)
    #: A scheduled event of the node happens only if this has not changed since.
    era: int = 0

    @property
    def is_worker(self) -> bool:
        return self.kind in ("app", "plain")

    @property
    def is_silent(self) -> bool:
        """Whether it is connected and answers nothing."""
        return self.connected and (self.frozen or self.kind == "foreign")

    def reply(self, command: Command) -> dict[str, Any] | None:
        """Return field to reply; None where nothing can be sent.

        Every reply holds the ticket that it answers.
        """
        if self.kind == "foreign" or (self.kind == "beat" and command.method != PING):
            return None
        asked = command.arguments.get(ARGUMENT)
        if self.kind == "app" and asked is not None:
            fields = asked.keys() - self.too_large if len(asked) > 1 else asked
            fitting = {name: {"answers": command.ticket} for name in fields}
            return {ARGUMENT: json.dumps({REPLIES: fitting})}
        if command.method in self.unencodable and not command.arguments.get("safe"):
            return None
        return {"answers": command.ticket}

    def takes(self, command: Command) -> float:
        """Return the seconds that a command keeps it from the next one."""
        return self.delay if not command.workers or self.name in command.workers else 1e-6

    def due(self, ticket: str) -> float | None:
        """Return when its reply comes or came; None where none comes if nothing happens."""
        if ticket in self.answered_at:
            return self.answered_at[ticket]
        at = self.works_at
        for number, command in enumerate(self.inbox if not self.frozen else ()):
            at += self.takes(command) if number else 0.0
            if command.ticket == ticket:
                return at if self.reply(command) is not None and not self.loses else None
            if self.is_worker and self.reply(command) is None:
                return None
        return None


@dataclass(frozen=True)
class Command:
    method: str
    arguments: Mapping[str, Any]
    workers: frozenset[str]
    ticket: str
    asker: Connection | None  # None: another process


@dataclass(frozen=True)
class Message:
    """A reply, as kombu hands it on."""

    ticket: str
    node: Node
    reply: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"ticket": self.ticket}

    @property
    def body(self) -> str:
        return ""

    def decode(self) -> dict[str, Any]:
        if self.node.unreadable:
            raise ValueError("not accepted")
        return {self.node.name: self.reply}


class Broker:
    """A ``redis``, an ``amqp`` or a ``filesystem`` broker.

    Attributes:
        now: seconds.
        nodes: the living, and the dead whose name nobody has taken since.
        listed: the names in the list of mailboxes (not on AMQP).
        standstill: seconds for which the asker stands still after it has waited the next time.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.now = self.started_at = 1000.0
        self.nodes: list[Node] = []
        self.listed: set[str] = set()
        self.connections: list[Connection] = []
        self.standstill = 0.0
        self.disturbed_at = 0.0  # the last FLUSHDB or restart
        self.others_asked_at = 0.0
        self.tickets = map(str, count())
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._numbers = count()

    def after(self, seconds: float, event: Callable[..., Any], *args: Any) -> None:
        """Let something happen: now, or in the future."""
        if seconds == 0:
            event(*args)
        else:
            entry = (self.now + seconds, next(self._numbers), lambda: event(*args))
            heappush(self._events, entry)

    def wait(self, seconds: float, until: Callable[[], Any] = lambda: False) -> None:
        ends = self.now + seconds
        while not until():
            if not self._events or self._events[0][0] > ends:
                self.now = ends
                return
            self.now, _, event = heappop(self._events)
            event()

    # What happens to nodes

    def start(self, node: Node) -> None:
        namesakes = [other for other in self.nodes if other.name == node.name]
        if self.kind != "redis" and any(other.alive for other in namesakes):
            return  # Only on Redis can several nodes have one name.
        for other in namesakes:
            if not other.alive:
                node.inbox.extend(other.inbox)  # On the file system, its mailbox is still there.
                self.nodes.remove(other)
        self.nodes.append(node)
        self.connect(node)

    def connect(self, node: Node) -> None:
        if node.alive and not node.frozen and not node.connected:
            node.connected = True
            node.changed_at = self.now
            if self.kind != "amqp" and node.kind != "foreign":
                self.listed.add(node.name)
            self._work_later(node)

    def _disconnect(self, node: Node) -> None:
        node.connected = False
        node.era += 1
        node.inbox.clear()
        node.changed_at = self.now

    def kill(self, node: Node) -> None:
        """It stays in the list."""
        if not node.alive:
            return
        node.alive = False
        inbox = node.inbox.copy()
        self._disconnect(node)
        if self.kind == "filesystem":
            node.inbox.extend(inbox)  # Its mailbox is a file.

    def stop(self, node: Node) -> None:
        """It takes the entry of its name along, even if another node has the same name."""
        if node.alive and not node.frozen:
            self.kill(node)
            node.inbox.clear()
            self.listed.discard(node.name)

    def freeze(self, node: Node, seconds: float) -> None:
        """Let a node answer nothing for some seconds, as a busy ``solo`` worker."""
        if node.alive and not node.frozen:
            node.frozen = True
            node.era += 1
            node.changed_at = self.now
            self.after(seconds, self.thaw, node)

    def thaw(self, node: Node) -> None:
        if node.frozen:
            node.frozen = False
            node.changed_at = self.now
            if node.connected:
                self._work_later(node)
            else:
                self.connect(node)

    def upgrade(self, node: Node) -> None:
        """The same name comes back with the app."""
        if node.alive and node.is_worker and not node.frozen:
            self.stop(node)
            self.start(Node(node.name, "app", node.delay))

    def lose_a_reply(self, node: Node) -> None:
        node.loses += 1

    def change_certificate(self, node: Node) -> None:
        node.unreadable = not node.unreadable

    def _reset(self, node: Node, command: Command) -> None:
        changed_at = node.changed_at
        self._disconnect(node)
        self.listed.discard(node.name)
        era = node.era

        def back() -> None:
            if node.era == era:
                self.connect(node)
                if command.asker is not None:
                    node.changed_at = changed_at

        self.after(node.reset_takes, back)

    # What happens to the broker

    def flush(self) -> None:
        """Lose the list, the replies that have come, and the bindings of the reply queues."""
        self.listed.clear()
        self.disturbed_at = self.now
        for connection in self.connections:
            connection.is_bound = False
            connection.replies_waiting.clear()

    def restart(self, delays: Collection[float]) -> None:
        """Lose everything. Nodes come back one by one."""
        self.flush()
        self.started_at = self.now
        for connection in self.connections:
            connection.failed = True
        for node, delay in zip(self.nodes, delays, strict=False):
            if node.connected:
                self._disconnect(node)
            self.after(delay, self.connect, node)

    def ask_as_another(self, fields: Collection[str]) -> None:
        """Let another process ask, as this package does."""
        joint: dict[str, Any] = {ARGUMENT: {name: {} for name in fields}}
        self.others_asked_at = self.now
        for name, arguments in zip(fields, [joint, *([{}] * len(fields))], strict=False):
            self.deliver(Command(name, arguments, frozenset(), next(self.tickets), None))

    # Commands and replies

    def deliver(self, command: Command) -> None:
        by_file = self.kind == "filesystem"
        for node in self.nodes:
            reached = node.connected or (by_file and not node.alive and node.name in self.listed)
            if not reached or (by_file and node.name not in self.listed):
                continue
            if by_file or not command.workers or node.name in command.workers:
                node.inbox.append(command)
                if len(node.inbox) == 1:
                    self._work_later(node)

    def _work_later(self, node: Node) -> None:
        if node.inbox and node.connected and not node.frozen:
            delay = node.takes(node.inbox[0])
            node.works_at = self.now + delay
            self.after(delay, self._work, node, node.era)

    def _work(self, node: Node, era: int) -> None:
        if node.era != era:
            return
        command = node.inbox.popleft()
        if not command.workers or node.name in command.workers:
            reply = node.reply(command)
            if reply is None and node.is_worker:
                self._reset(node, command)
            elif reply is not None and command.asker is not None:
                is_lost = node.loses > 0
                node.loses -= is_lost
                node.answered_at[command.ticket] = None if is_lost else self.now
                if not is_lost:
                    command.asker.receive(Message(command.ticket, node, reply))
        self._work_later(node)


class Connection:
    """What ``control/`` uses of a :class:`~celery_stats.control.connection.ControlConnection`.

    Attributes:
        asked: ticket to command, of the current question.
        read: the replies that were handed on in it.
        read_at: when the last one of them was.
        is_bound: whether replies arrive.
        failed: whether the broker was restarted since.
    """

    connection = None
    ends = 0.0

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.driver = broker.kind
        self.is_virtual = broker.kind != "amqp"
        self.has_shared_table = self.is_virtual
        self.tickets: deque[str] = deque(maxlen=32)
        self.published = 0
        self.asked: dict[str, Command] = {}
        self.read: list[Message] = []
        self.read_at = 0.0
        self.replies_waiting: deque[Message] = deque()
        self.is_bound = self.failed = self.is_reply_expected = False
        self._on_message: Callable[[Any], None] = lambda message: None
        broker.connections.append(self)

    def now(self) -> float:
        return self.broker.now

    def check(self) -> None:
        if self.failed:
            raise BrokerUnavailable("restarted")

    def guarded(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield

    @contextmanager
    def replies(self, on_message: Callable[[Any], None]) -> Iterator[None]:
        self.check()
        self._on_message = on_message
        self.published = 0
        self.asked, self.read, self.read_at = {}, [], self.broker.now
        self.is_bound = True
        try:
            yield
        finally:
            if self.is_virtual:
                self.is_bound = False
                self.replies_waiting.clear()

    def publish(
        self,
        command: str,
        arguments: Mapping[str, Any],
        *,
        expires: float,
        workers: Collection[str] = (),
    ) -> str:
        self.check()
        ticket = next(self.broker.tickets)
        self.asked[ticket] = Command(command, arguments, frozenset(workers), ticket, self)
        self.broker.deliver(self.asked[ticket])
        if command != PING:
            self.tickets.append(ticket)
        self.published += 1
        return ticket

    def receive(self, message: Message) -> None:
        if self.is_bound and not self.failed:
            self.replies_waiting.append(message)

    def drain(self, seconds: float) -> bool:
        self.check()
        self.broker.wait(max(seconds, 0.001), lambda: self.replies_waiting or self.failed)
        self.check()
        came = bool(self.replies_waiting)
        if came:
            message = self.replies_waiting.popleft()
            self.read.append(message)
            self.read_at = self.broker.now
            self._on_message(message)
        standstill, self.broker.standstill = self.broker.standstill, 0.0
        self.broker.wait(standstill)
        return came

    def bind_again(self) -> None:
        self.check()
        self.is_bound = True

    def leave_replies(self) -> None:
        """The model sends little."""

    def skip(self, message: Any, reason: Exception | str) -> None:
        """The model logs nothing."""

    def count_nodes(self) -> int | None:
        self.check()
        return sum(node.connected for node in self.broker.nodes)

    def listed_names(self) -> frozenset[str] | None:
        self.check()
        return frozenset(self.broker.listed)

    def missing_mailboxes(self, names: Collection[str]) -> frozenset[str]:
        self.check()
        return frozenset(names) - {node.name for node in self.broker.nodes if node.connected}

    def unread_messages(self, name: str) -> int:
        self.check()
        return max(len(node.inbox) for node in self.broker.nodes if node.name == name)

    def server_id(self) -> str:
        return str(self.broker.started_at)
