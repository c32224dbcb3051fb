"""AMQP: the broker lists nobody, but tells whether the mailbox of a known name exists."""

from __future__ import annotations

import time
from typing import Any

from celery_stats.control.limits import MAX_WORKERS
from celery_stats.control.replies import Replies

from .base import PING_AFTER, Presence

#: How long new workers are listened for when every known worker has answered: as a share of the
#: time that the known workers took, and in seconds at the least.
GRACE_SHARE = 0.25
MIN_GRACE = 0.001

#: Bytes that AMQP allows for the name of a queue.
MAX_QUEUE_NAME = 255


class AmqpPresence(Presence):
    """A question is complete when every known worker has answered or is gone, after a grace.

    The first question of a process waits a whole ``timeout``, and learns who is there. In the
    grace new workers are heard. One that answers later is known at the next question.
    """

    def after_asking(self) -> None:
        self._asked_at = time.monotonic()
        self._gone = self._find_gone(self.requested - self.memory.amqp.known)

    def after_ping(self, replies: Replies) -> None:
        super().after_ping(replies)
        self._gone |= self._find_gone(self._awaited(replies) | replies.pending)
        replies.given_up |= self._gone & replies.pending

    def _awaited(self, replies: Replies) -> frozenset[str]:
        """Return the workers that may still answer."""
        asked = self.requested or self.memory.amqp.known
        return frozenset(asked) - replies.done - self._gone - self.no_workers

    @property
    def _is_first(self) -> bool:
        """Whether nobody is known: in the first question, and after a whole fleet has left."""
        known = self.memory.amqp.known - self._gone
        return not self.requested and not (self.memory.amqp.window_passed and known)

    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        if self.requested:
            return None if self._awaited(replies) else 0.0
        if self._is_first or self._awaited(replies):
            return None
        grace = max(MIN_GRACE, GRACE_SHARE * (replies.last_answer_at - self._asked_at))
        return max(0.0, replies.last_answer_at + grace - now)

    def ping_after(self, replies: Replies) -> float | None:
        # In the first question a ping finds workers that are not known and lost their reply.
        somebody = replies.pending or self._awaited(replies) or self._is_first
        return PING_AFTER if somebody else None

    def _find_gone(self, workers: frozenset[str]) -> frozenset[str]:
        """Return the workers whose mailbox does not exist any more.

        A mailbox is exclusive to its worker: a passive declaration fails with 405 while the
        worker is connected, and with 404 afterwards. Each costs a round trip, and a hostile
        worker can make up any number of names. So the names for which no time is left count as
        there.
        """
        if not workers:
            return frozenset()
        ends = time.monotonic() + self.connection.exchange_timeout
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

    def remember(self, replies: Replies, *, whole_window: bool) -> None:
        memory = self.memory.amqp
        memory.known -= self._gone
        if len(memory.known) < MAX_WORKERS:
            memory.known |= replies.complete
        learnt = whole_window and not self.requested and not replies.owed
        memory.window_passed = bool(memory.known) and (memory.window_passed or learnt)

    def _expected(self) -> set[str]:
        return self.memory.amqp.known - self._gone
