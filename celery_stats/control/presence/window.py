"""Transports that tell nothing: a list of mailboxes is missing, or local to the process."""

from __future__ import annotations

from celery_stats.control.replies import Replies

from .base import PING_AFTER, Presence


class WindowPresence(Presence):
    """A question is complete after a whole ``timeout`` of silence, always.

    A question to named workers is complete when all of them have answered.
    """

    def _seconds_to_listen(self, replies: Replies, now: float) -> float | None:
        return None

    def ping_after(self, replies: Replies) -> float | None:
        return PING_AFTER if replies.pending or self.requested else None

    def _expected(self) -> set[str]:
        return set()
