"""What one process remembers about a broker between snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_stats.control.connection import ControlConnection
from celery_stats.control.limits import MAX_WORKERS, is_too_large


@dataclass(frozen=True)
class PingResult:
    """What pings to every node showed about a Redis broker.

    It holds as long as the broker counts the same number of subscribers and lists the same names.

    Attributes:
        count: the number of subscribers; None where they could not be counted.
        listed: the names in the binding table.
        dead: those of ``listed`` to which no node answered.
        no_workers: names of nodes that answer pings and no worker command.
        strangers: the number of subscribers that answer nothing at all.
        at: monotonic seconds.
    """

    count: int | None
    listed: frozenset[str]
    dead: frozenset[str] = frozenset()
    no_workers: frozenset[str] = frozenset()
    strangers: int = 0
    at: float = 0.0

    @property
    def saves_time(self) -> bool:
        """Whether a question takes longer without this result."""
        return bool(self.dead or self.no_workers or self.strangers)


@dataclass
class AmqpMemory:
    """What is remembered about an AMQP broker.

    Attributes:
        known: workers that answered before and have not been found gone since.
        window_passed: whether a question waited a whole ``timeout`` for unknown workers.
    """

    known: set[str] = field(default_factory=set)
    window_passed: bool = False

    def add(self, workers: set[str]) -> None:
        """Remember workers, as long as there is room."""
        if len(self.known) < MAX_WORKERS:
            self.known |= workers


@dataclass
class TableMemory:
    """What is remembered about the listed names of other transports.

    Attributes:
        silent: workers that were silent for a whole ``timeout``.
        no_workers: nodes that are no workers.
    """

    silent: set[str] = field(default_factory=set)
    no_workers: set[str] = field(default_factory=set)


@dataclass
class Memory:
    """What earlier snapshots showed; only the part of the broker's transport is used.

    Attributes:
        without_app: workers without this app, which are asked for one field at a time.
        ping_result: Redis: what the latest pings showed.
        amqp: AMQP.
        table: other transports with a binding table.
    """

    without_app: set[str] = field(default_factory=set)
    ping_result: PingResult | None = None
    amqp: AmqpMemory = field(default_factory=AmqpMemory)
    table: TableMemory = field(default_factory=TableMemory)


def workers_in_late_reply(message: Any, connection: ControlConnection) -> set[str]:
    """Return the workers whose reply to an earlier question came after its end.

    Args:
        message: a kombu message with a ticket that is not one of the current question.
        connection: knows the tickets of earlier questions.
    """
    headers = message.headers
    ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
    if ticket not in connection.tickets or is_too_large(message):
        return set()
    try:
        body = message.decode()
    except Exception as exc:  # noqa: BLE001 - decoders are pluggable and may raise anything
        connection.skip(message, exc)
        return set()
    return {name for name in body if isinstance(name, str)} if isinstance(body, Mapping) else set()
