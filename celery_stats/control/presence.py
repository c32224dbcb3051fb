"""Who is there to answer a question: one strategy for each kind of transport.

Four words are used throughout:

    listed      the broker has a mailbox of this name in a table
    counted     how many subscribers a message to all reached
    no worker   a node that answers pings but no worker command, such as ``celery beat``
    gone        a worker whose mailbox is not there any more

Each strategy answers one question, :meth:`Presence.listen`: how much longer is it worth listening?
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kombu.transport import memory as memory_transport
from kombu.transport import virtual

from .connection import ControlConnection
from .replies import Replies

logger = logging.getLogger(__name__)

#: AMQP: how long newcomers are listened for once every known worker has answered, as a share of
#: the time that these took, and in seconds at the least.
GRACE_SHARE = 0.25
MIN_GRACE = 0.001

#: Redis: seconds without another pong after which pongs of names that are not listed count.
UNLISTED_GRACE = 0.025

#: Seconds after which what was found out about a Redis broker is found out again.
LOOK_AGAIN_AFTER = 60.0

#: AMQP: workers remembered at the most. A hostile one can make up any number of names.
MAX_KNOWN = 10_000

#: Bytes that AMQP allows for the name of a queue.
MAX_QUEUE_NAME = 255


@dataclass(frozen=True)
class Finding:
    """What pings showed about one state of a Redis broker.

    It holds while the broker counts as many subscribers and lists the same names.

    Attributes:
        count: how many subscribers there were.
        listed: the names in the binding table.
        dead: those of ``listed`` that nobody answers to.
        no_workers: names of the nodes that answer pings only.
        strangers: how many subscribers answer nothing at all.
        at: monotonic seconds.
    """

    count: int | None
    listed: frozenset[str]
    dead: frozenset[str] = frozenset()
    no_workers: frozenset[str] = frozenset()
    strangers: int = 0
    at: float = 0.0

    @property
    def is_of_use(self) -> bool:
        """Whether a question that relies on it would take longer without it."""
        return bool(self.dead or self.no_workers or self.strangers)


@dataclass
class Memory:
    """What one process remembers of a broker between snapshots.

    Attributes:
        finding: Redis: what the latest pings showed.
        known: AMQP: workers that answered before and were not found gone since.
        window_passed: AMQP: whether a whole window was spent listening for unknown workers.
        unread: other tables: listed workers that stayed silent for a whole window.
        no_workers: other tables: listed nodes that are no workers.
        plain: workers without this app, which answer one command at a time.
    """

    finding: Finding | None = None
    known: set[str] = field(default_factory=set)
    window_passed: bool = False
    unread: set[str] = field(default_factory=set)
    no_workers: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)


class Presence:
    """Who could answer one question. This one knows nobody: every question waits a window.

    It serves transports that have no list of mailboxes, or one that is local to the process.

    Attributes:
        no_workers: names of nodes that this question has shown to be no workers.
    """

    def __init__(
        self, connection: ControlConnection, memory: Memory, requested: frozenset[str]
    ) -> None:
        """
        Args:
            connection: where the question was asked.
            memory: what earlier questions showed; updated by :meth:`remember`.
            requested: full names of the workers that alone were asked; empty: all.
        """
        self.connection = connection
        self.memory = memory
        self.requested = requested
        self.no_workers: set[str] = set()
        self.pinged = False

    def look(self) -> None:
        """See who is there, just after the question was published."""

    def look_again(self, replies: Replies) -> None:
        """See who is there, just after every node was pinged because somebody is silent."""
        self.pinged = True

    def listen(self, replies: Replies, now: float) -> float | None:
        """Return how many seconds more to listen: 0 when all have answered, None if unknown."""
        if replies.pending:
            return None
        if self.requested and self.requested <= replies.done:
            return 0.0
        return self._listen(replies, now)

    def _listen(self, replies: Replies, now: float) -> float | None:
        return None

    def is_somebody_silent(self, replies: Replies) -> bool:
        """Whether somebody is waited for whom a ping would reach."""
        return bool(replies.pending or self.requested)

    def is_doubtful(self, replies: Replies) -> bool:
        """Whether a ping would show at once that nobody else will answer."""
        return False

    def expected(self, replies: Replies) -> set[str]:
        """The workers that are named as missing where they owe an answer."""
        return set(self.requested) or set(replies.owed)

    @property
    def is_stale(self) -> bool:
        """Whether this relied on something that should be found out anew by now."""
        return False

    def remember(self, replies: Replies, whole_window: bool) -> None:
        """Keep what the next question can use.

        Args:
            replies: who answered.
            whole_window: whether a whole time-out passed in silence.
        """


class RedisPresence(Presence):
    """Redis counts the subscribers of every message, and lists names.

    A question is answered when every listed worker has answered and as many nodes as were
    counted. Where that does not come about, every node is pinged: nodes answer in order, so
    once as many pongs came as subscribers were counted, whoever has not answered will not.
    What the pings showed is remembered while the count and the names stay the same.
    """

    def look(self) -> None:
        self._look()
        self._asked = self._listed

    def look_again(self, replies: Replies) -> None:
        super().look_again(replies)
        self._look()

    def _look(self) -> None:
        # The count comes first. A worker that stops is gone from the count before it is gone
        # from the names, so a worker that leaves in between costs a ping. The other way round
        # it would be counted without a name, and a live one would be taken for dead.
        self._count = self._subscribers()
        self._listed = listed_names(self.connection)
        found = self.memory.finding
        holds = found is not None and (found.count, found.listed) == (self._count, self._listed)
        self._finding = found if found and holds else Finding(self._count, self._listed)

    def _subscribers(self) -> int | None:
        """Return how many nodes are subscribed to the mailboxes' topic.

        PUBLISH says how many subscribers it reached, but kombu drops that number. Nodes
        ignore an empty payload, so publishing one counts them and does nothing else.
        ``keyprefix_fanout`` and ``conn_or_acquire`` are attributes of kombu's Redis channel
        that its documentation does not mention; without them nobody is counted, and every
        question waits a whole window.
        """
        channel = self.connection.channel
        prefix = getattr(channel, "keyprefix_fanout", None)
        acquire = getattr(channel, "conn_or_acquire", None)
        # Workers older than kombu 5.4 may listen on a second topic behind a sentinel.
        if prefix is None or acquire is None or getattr(channel, "sentinel_fanout_compat", False):
            return None
        with self.connection.guarded(), acquire() as client:
            return int(client.publish(f"{prefix}{self.connection.mailbox.exchange.name}", ""))

    def _listen(self, replies: Replies, now: float) -> float | None:
        if self._count is None:
            return None
        if self._everyone_ponged(replies):
            # A name that is not listed may be made up, so the listed get another moment.
            by_listed = sum(replies.pongs[name] for name in self._listed)
            sure = by_listed + self._finding.strangers >= self._count
            return 0.0 if sure else max(0.0, replies.ponged_at + UNLISTED_GRACE - now)
        if self.requested or self._awaited(replies):
            return None
        return 0.0 if self._everyone_counted(replies) else None

    def _awaited(self, replies: Replies) -> frozenset[str]:
        """The listed workers that may still answer."""
        return self._listed - self._finding.dead - self._finding.no_workers - replies.done

    def _everyone_counted(self, replies: Replies) -> bool:
        others = len(self._finding.no_workers - replies.heard) + self._finding.strangers
        return self._count is not None and replies.nodes + others >= self._count

    def _everyone_ponged(self, replies: Replies) -> bool:
        """Whether every node has answered a ping, and with it all that was asked before."""
        if not self.pinged or self._count is None:
            return False
        to_judge = set(replies.pongs) & (self.requested or self._asked)
        if to_judge - replies.done - self.no_workers:
            return False
        return sum(replies.pongs.values()) + self._finding.strangers >= self._count

    def is_somebody_silent(self, replies: Replies) -> bool:
        return True  # Somebody was counted who has not answered.

    def is_doubtful(self, replies: Replies) -> bool:
        if self.requested:
            alive = self._listed - self._finding.dead - self._finding.no_workers
            return not (self.requested - replies.done) & alive
        return self._everyone_counted(replies)

    def expected(self, replies: Replies) -> set[str]:
        if self.requested:
            return set(self.requested)
        no_workers = self._finding.no_workers | self.no_workers
        return set(self._asked & self._listed) - no_workers | set(replies.owed)

    def remember(self, replies: Replies, whole_window: bool) -> None:
        if not self.pinged:
            return
        if self._everyone_ponged(replies):
            dead, strangers = self._listed - set(replies.pongs), self._finding.strangers
        elif whole_window:
            # Whether a listed worker is dead or frozen cannot be told apart from outside.
            silent = (self._count or 0) - sum(replies.pongs.values())
            dead, strangers = frozenset(), silent - len(self._listed - set(replies.pongs))
        else:
            return
        no_workers = (self._finding.no_workers | self.no_workers) & set(replies.pongs)
        self.memory.finding = Finding(
            count=self._count,
            listed=self._listed,
            dead=dead,
            no_workers=frozenset(no_workers - replies.heard),
            strangers=max(0, strangers),
            at=time.monotonic(),
        )

    @property
    def is_stale(self) -> bool:
        age = time.monotonic() - self._finding.at
        return self._finding.is_of_use and age > LOOK_AGAIN_AFTER


class AmqpPresence(Presence):
    """AMQP lists nobody, but can tell whether the mailbox of a known name exists.

    A process's first question waits a whole window and learns who is there. After that a
    question is answered when all known workers have answered or are gone, plus a grace in which
    newcomers are heard. Whoever answers later is known at the next question.
    """

    def look(self) -> None:
        self._asked_at = time.monotonic()
        self._gone = self._find_gone(self.requested - self.memory.known)

    def look_again(self, replies: Replies) -> None:
        super().look_again(replies)
        self._gone |= self._find_gone(self._awaited(replies))

    def _awaited(self, replies: Replies) -> frozenset[str]:
        asked = self.requested or self.memory.known
        return frozenset(asked) - replies.done - self._gone - self.no_workers

    def is_somebody_silent(self, replies: Replies) -> bool:
        # In a first question, whoever is unknown and lost its reply is found by its pong.
        return bool(replies.pending or self._awaited(replies) or self._is_first)

    @property
    def _is_first(self) -> bool:
        """Whether nobody is known: in a process's first question, or after a whole fleet left."""
        known = self.memory.known - self._gone
        return not self.requested and not (self.memory.window_passed and known)

    def _listen(self, replies: Replies, now: float) -> float | None:
        if self.requested:
            return None if self._awaited(replies) else 0.0
        if self._is_first or self._awaited(replies):
            return None
        grace = max(MIN_GRACE, GRACE_SHARE * (replies.at - self._asked_at))
        return max(0.0, replies.at + grace - now)

    def _find_gone(self, workers: frozenset[str]) -> frozenset[str]:
        """Return those whose mailbox is not there any more.

        A mailbox is exclusive to its worker: asking for it is answered with 405 while the
        worker is connected, and with 404 afterwards. Each costs a round trip, and a worker can
        make up any number of names: those that time does not allow to ask for count as there.
        """
        if not workers:
            return frozenset()
        ends = time.monotonic() + self.connection.patience
        kombu_connection = self.connection.connection
        with self.connection.guarded():
            channel = kombu_connection.channel()
            try:
                return frozenset(
                    worker
                    for worker in workers
                    if time.monotonic() < ends and not self._mailbox_exists(channel, worker)
                )
            finally:
                kombu_connection.maybe_close_channel(channel)

    def _mailbox_exists(self, channel: Any, worker: str) -> bool:
        queue = self.connection.mailbox.get_queue(worker)(channel)
        if len(queue.name.encode(errors="replace")) > MAX_QUEUE_NAME:
            return False
        try:
            return bool(queue.queue_declare(passive=True).consumer_count)
        except self.connection.connection.channel_errors as exc:
            return getattr(exc, "code", None) != 404

    def expected(self, replies: Replies) -> set[str]:
        if self.requested:
            return set(self.requested)
        return self.memory.known - self._gone | set(replies.owed)

    def remember(self, replies: Replies, whole_window: bool) -> None:
        memory = self.memory
        memory.known -= self._gone
        if len(memory.known) < MAX_KNOWN:
            memory.known |= replies.complete
        learnt = whole_window and not self.requested and not replies.owed
        memory.window_passed = bool(memory.known) and (memory.window_passed or learnt)


class TablePresence(Presence):
    """Other virtual transports list the mailboxes, and deliver to those that are listed.

    A question is answered when every listed worker has answered. One that stayed silent for
    a whole window is not waited for until it reads its mailbox again.
    """

    def look(self) -> None:
        self._listed = listed_names(self.connection)
        self.memory.no_workers &= self._listed
        published = self.connection.published
        self._asleep = {
            name
            for name in self._listed & self.memory.unread
            if self._unread_messages(name) > published
        }

    def _unread_messages(self, worker: str) -> int:
        queue = self.connection.mailbox.get_queue(worker)(self.connection.channel)
        with self.connection.guarded():
            return int(queue.queue_declare(passive=True).message_count)

    def _awaited(self, replies: Replies) -> set[str]:
        idle = self._asleep | self.memory.no_workers | self.no_workers
        return set(self._listed) - replies.done - idle

    def _listen(self, replies: Replies, now: float) -> float | None:
        awaited = self._awaited(replies)
        if self.requested:
            # Who is not listed may be bound at this moment: it has had its chance when all
            # that are listed have answered a later ping.
            left = self.requested - replies.done - self._asleep - self.no_workers
            had_their_chance = self.pinged and awaited <= set(replies.pongs)
            return 0.0 if not left or (had_their_chance and not left & awaited) else None
        return None if awaited else 0.0

    def is_somebody_silent(self, replies: Replies) -> bool:
        return True  # Somebody is listed who has not answered.

    def is_doubtful(self, replies: Replies) -> bool:
        return bool(self.requested) and not self.requested & self._awaited(replies)

    def expected(self, replies: Replies) -> set[str]:
        if self.requested:
            return set(self.requested)
        return set(self._listed) - self.memory.no_workers - self.no_workers | set(replies.owed)

    def remember(self, replies: Replies, whole_window: bool) -> None:
        memory = self.memory
        memory.no_workers -= replies.heard
        memory.no_workers |= self.no_workers & self._listed
        silent = self._listed - replies.heard - set(replies.pongs)
        memory.unread &= silent
        if whole_window and not self.requested:
            memory.unread |= silent


def presence_for(
    connection: ControlConnection, memory: Memory, requested: frozenset[str]
) -> Presence:
    """Return the strategy for a connection's transport."""
    kind = Presence
    if connection.driver == "redis":
        kind = RedisPresence
    elif connection.driver == "amqp":
        kind = AmqpPresence
    elif connection.is_virtual and _has_shared_table(connection):
        kind = TablePresence
    return kind(connection, memory, requested)


def _has_shared_table(connection: ControlConnection) -> bool:
    """Whether the table of bindings is the same for all processes.

    A transport that inherits kombu's ``get_table`` keeps its table in its own process. That is
    the whole table only where there is but one process.
    """
    inherited = type(connection.channel).get_table is virtual.Channel.get_table
    return not inherited or isinstance(connection.connection.transport, memory_transport.Transport)


def listed_names(connection: ControlConnection) -> frozenset[str]:
    """Return the names in the binding table of the mailboxes' exchange.

    Rows that are no bindings are skipped: anybody may have written them.
    """
    suffix = f".{connection.mailbox.namespace}.pidbox"
    with connection.guarded():
        try:
            rows = list(connection.channel.get_table(connection.mailbox.exchange.name))
        except UnicodeDecodeError:
            logger.warning("The binding table of the mailboxes cannot be read")
            return frozenset()
    queues = [row[2] for row in rows if len(row) == 3 and isinstance(row[2], str)]
    return frozenset(queue.removesuffix(suffix) for queue in queues if queue.endswith(suffix))


def hear_late(message: Any, connection: ControlConnection, memory: Memory) -> None:
    """Remember the workers that answered an earlier question too late."""
    headers = message.headers
    ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
    if ticket not in connection.tickets:
        return
    try:
        body = message.decode()
    except Exception as exc:  # noqa: BLE001 - decoders are pluggable and raise anything
        connection.skip(message, exc)
        return
    if isinstance(body, Mapping) and len(memory.known) < MAX_KNOWN:
        memory.known |= {name for name in body if isinstance(name, str)}
