"""Redis: the broker counts the subscribers of every message, and lists names."""

from __future__ import annotations

import time

from celery_stats.control.replies import Replies

from .base import PING_AFTER, Presence
from .memory import PingResult
from .table import listed_names

#: Seconds without another pong after which the pongs of names that are not listed count.
UNLISTED_GRACE = 0.025

#: Seconds after which what the pings showed is found out anew.
REFRESH_AFTER = 60.0


class RedisPresence(Presence):
    """A question is complete when as many nodes have answered as the broker counts subscribers.

    The listed workers must be among them. If the numbers or the names do not match, every
    node is pinged.
    A node answers in order. So when there are as many pongs as subscribers, a node that has
    answered nothing else will not answer any more. What the pings showed is remembered as long
    as the count and the names stay the same.
    """

    def after_asking(self) -> None:
        self._look()
        self._listed_when_asked = self._listed

    def after_ping(self, replies: Replies) -> None:
        super().after_ping(replies)
        self._look()

    def _look(self) -> None:
        # A worker that stops in between is in one of the two and not in the other. Then the
        # numbers do not match, and a ping decides.
        self._count = self._count_subscribers()
        # If the table cannot be read, the count alone decides.
        self._listed = listed_names(self.connection) or frozenset()
        found = self.memory.ping_result
        holds = found is not None and (found.count, found.listed) == (self._count, self._listed)
        self._ping_result = found if found and holds else PingResult(self._count, self._listed)

    def _count_subscribers(self) -> int | None:
        """Return how many nodes are subscribed to the topic of the mailboxes.

        PUBLISH returns how many subscribers it reached, but kombu drops that number. Nodes
        ignore an empty payload, so publishing one counts them and does nothing else.
        ``keyprefix_fanout`` and ``conn_or_acquire`` are attributes of kombu's Redis channel
        that its documentation does not mention. Without them nobody is counted, and every
        question waits a whole ``timeout``.
        """
        channel = self.connection.channel
        prefix = getattr(channel, "keyprefix_fanout", None)
        acquire = getattr(channel, "conn_or_acquire", None)
        # Workers older than kombu 5.4 may listen on a second topic behind a sentinel.
        if prefix is None or acquire is None or getattr(channel, "sentinel_fanout_compat", False):
            return None
        with self.connection.guarded(), acquire() as client:
            return int(client.publish(f"{prefix}{self.connection.mailbox.exchange.name}", ""))

    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        if self._count is None:
            return None
        if self._has_everyone_ponged(replies):
            # A hostile worker can answer a ping under names that it made up. Such pongs are
            # counted only if no other pong has come for a moment.
            by_listed = sum(replies.pongs[name] for name in self._listed)
            if by_listed + self._ping_result.strangers >= self._count:
                return 0.0
            return max(0.0, replies.last_pong_at + UNLISTED_GRACE - now)
        # The numbers are compared first, because that is cheap and this runs for every reply.
        if self.requested or not self._is_count_reached(replies):
            return None
        return None if self._awaited(replies) else 0.0

    def _awaited(self, replies: Replies) -> frozenset[str]:
        """Return the listed workers that may still answer."""
        return self._listed - self._ping_result.dead - self._ping_result.no_workers - replies.done

    def _is_count_reached(self, replies: Replies) -> bool:
        silent = self._ping_result.strangers
        if self._ping_result.no_workers:
            silent += len(self._ping_result.no_workers - replies.heard)
        return self._count is not None and replies.nodes + silent >= self._count

    def _has_everyone_ponged(self, replies: Replies) -> bool:
        if not self.pinged or self._count is None:
            return False
        may_be_workers = set(replies.pongs) & (self.requested or self._listed_when_asked)
        if may_be_workers - replies.done - self.no_workers:
            return False  # They are asked again.
        return sum(replies.pongs.values()) + self._ping_result.strangers >= self._count

    def ping_after(self, replies: Replies) -> float | None:
        # At once where the numbers look complete and a worker is silent all the same: only a
        # ping can tell whether it is dead.
        if self.requested:
            may_answer = self._listed - self._ping_result.dead - self._ping_result.no_workers
            at_once = not (self.requested - replies.done) & may_answer
        else:
            at_once = self._is_count_reached(replies)
        return 0.0 if at_once else PING_AFTER

    def remember(self, replies: Replies, *, whole_window: bool) -> None:
        if replies.heard & (self._ping_result.no_workers | self._ping_result.dead):
            self.memory.ping_result = None  # It was wrong.
        if not self.pinged:
            return
        without_pong = self._listed - set(replies.pongs)
        if self._has_everyone_ponged(replies):
            dead, strangers = without_pong, self._ping_result.strangers
        elif whole_window:
            # A listed worker without a pong may be frozen. Then it is one of the silent
            # subscribers, so it is not counted as a stranger as well.
            silent = (self._count or 0) - sum(replies.pongs.values())
            dead, strangers = frozenset(), max(0, silent - len(without_pong))
        else:
            return
        no_workers = (self._ping_result.no_workers | self.no_workers) & set(replies.pongs)
        self.memory.ping_result = PingResult(
            count=self._count,
            listed=self._listed,
            dead=dead,
            no_workers=frozenset(no_workers - replies.heard),
            strangers=strangers,
            at=time.monotonic(),
        )

    def _expected(self) -> set[str]:
        no_workers = self._ping_result.no_workers | self.no_workers
        return set(self._listed_when_asked & self._listed) - no_workers

    @property
    def is_stale(self) -> bool:
        age = time.monotonic() - self._ping_result.at
        return self._ping_result.saves_time and age > REFRESH_AFTER
