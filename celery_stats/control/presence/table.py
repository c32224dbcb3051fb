"""Other virtual transports (file system, MongoDB): a shared table lists the mailboxes."""

from __future__ import annotations

import logging

from kombu.transport import memory as memory_transport
from kombu.transport import virtual

from celery_stats.control.connection import ControlConnection
from celery_stats.control.replies import Replies

from .base import PING_AFTER, Presence

logger = logging.getLogger(__name__)


class TablePresence(Presence):
    """A question is complete when every listed worker has answered.

    A message to all is delivered to the listed mailboxes. A worker that was silent for a whole
    ``timeout`` is not waited for again until it reads its mailbox.
    """

    def after_asking(self) -> None:
        listed = listed_names(self.connection)
        self._is_list_unknown = listed is None
        self._listed = listed or frozenset()
        self.memory.table.no_workers &= self._listed
        # If more is unread than this question has published, the worker has not read an older
        # message.
        published = self.connection.published
        self._not_reading = {
            name
            for name in self._listed & self.memory.table.silent
            if self._unread_messages(name) > published
        }

    def _unread_messages(self, worker: str) -> int:
        queue = self.connection.mailbox.get_queue(worker)(self.connection.channel)
        with self.connection.guarded():
            return int(queue.queue_declare(passive=True).message_count)

    def _awaited(self, replies: Replies) -> set[str]:
        """Return the listed workers that may still answer."""
        not_awaited = self._not_reading | self.memory.table.no_workers | self.no_workers
        return set(self._listed) - replies.done - not_awaited

    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        if self._is_list_unknown:
            return None
        awaited = self._awaited(replies)
        if self.requested:
            # A worker that is not listed may be about to bind its mailbox. When every listed
            # worker has answered a ping that was sent after the question, it would have answered,
            # too.
            left = self.requested - replies.done - self._not_reading - self.no_workers
            had_their_chance = self.pinged and awaited <= set(replies.pongs)
            return 0.0 if not left or (had_their_chance and not left & awaited) else None
        return None if awaited else 0.0

    def ping_after(self, replies: Replies) -> float | None:
        is_nobody_listed = bool(self.requested) and not self.requested & self._awaited(replies)
        return 0.0 if is_nobody_listed else PING_AFTER

    def remember(self, replies: Replies, *, whole_window: bool) -> None:
        memory = self.memory.table
        memory.no_workers -= replies.heard
        memory.no_workers |= self.no_workers & self._listed
        silent = self._listed - replies.heard - set(replies.pongs)
        memory.silent &= silent
        if whole_window and not self.requested:
            memory.silent |= silent

    def _expected(self) -> set[str]:
        return set(self._listed) - self.memory.table.no_workers - self.no_workers


def listed_names(connection: ControlConnection) -> frozenset[str] | None:
    """Return the names in the binding table of the mailboxes' exchange.

    A row that is no binding is skipped, because anybody may have written it.

    Returns:
        frozenset[str] | None: None if the table cannot be read.
    """
    suffix = f".{connection.mailbox.namespace}.pidbox"
    with connection.guarded():
        try:
            rows = list(connection.channel.get_table(connection.mailbox.exchange.name))
        except (ValueError, TypeError):  # It is being written, or somebody else wrote it.
            logger.warning("The binding table of the mailboxes cannot be read")
            return None
    queues = [row[2] for row in rows if len(row) == 3 and isinstance(row[2], str)]
    return frozenset(queue.removesuffix(suffix) for queue in queues if queue.endswith(suffix))


def has_shared_table(connection: ControlConnection) -> bool:
    """Whether the binding table is the same for all processes.

    A transport that inherits ``get_table`` from kombu's ``virtual.Channel`` keeps the table in
    its own process. Such a table is complete only where there is one process (``memory``).
    """
    inherited = type(connection.channel).get_table is virtual.Channel.get_table
    return not inherited or isinstance(connection.connection.transport, memory_transport.Transport)
