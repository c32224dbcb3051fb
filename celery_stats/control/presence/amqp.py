"""AMQP: the broker lists nobody, but tells whether the mailbox of a known name exists."""

from __future__ import annotations

import time
from typing import Any

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
        # Copies, because another question may change the memory: its new workers have not
        # received this question.
        self._known = set(self.memory.amqp.known)
        self._window_passed = self.memory.amqp.window_passed
        self._gone = self._find_gone(self.requested - self._known)

    def hear_late(self, workers: set[str]) -> None:
        self.memory.amqp.add(workers)
        self._known |= workers

    def after_ping(self, replies: Replies) -> None:
        super().after_ping(replies)
        self._gone |= self._find_gone(self._awaited(replies) | replies.pending)
        replies.given_up |= self._gone & replies.pending

    def _awaited(self, replies: Replies) -> frozenset[str]:
        """Return the workers that may still answer."""
        asked = self.requested or self._known
        return frozenset(asked) - replies.done - self._gone - self.no_workers

    def _may_others_be_there(self, replies: Replies) -> bool:
        """Whether there may be workers that are not known, so that a whole window is due.

        That is so in the first question, after a whole fleet has left, and if a reply was lost
        and no worker is found that lost it.
        """
        known = self._known - self._gone
        is_first = not (self._window_passed and known)
        return not self.requested and (is_first or (self.lost_reply and not replies.given_up))

    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        if self.requested:
            return None if self._awaited(replies) else 0.0
        if self._may_others_be_there(replies) or self._awaited(replies):
            return None
        grace = max(MIN_GRACE, GRACE_SHARE * (replies.last_answer_at - self._asked_at))
        return max(0.0, replies.last_answer_at + grace - now)

    def ping_after(self, replies: Replies) -> float | None:
        # A ping also finds workers that are not known and lost their reply.
        is_due = replies.pending or self._awaited(replies) or self._may_others_be_there(replies)
        return PING_AFTER if is_due else None

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
        memory.add(replies.done)
        learnt = whole_window and not self.requested and not replies.pending
        memory.window_passed = bool(memory.known) and (memory.window_passed or learnt)

    def _expected(self) -> set[str]:
        return self._known - self._gone
