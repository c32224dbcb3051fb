"""Transports that tell nothing: a list of mailboxes is missing, or local to the process."""

from __future__ import annotations

from .base import Presence


class WindowPresence(Presence):
    """A question is complete after a whole ``timeout`` of silence, always.

    A question to named workers is complete when all of them have answered.
    """

    def _patience(self) -> float | None:
        return None

    def ping_after(self) -> float | None:
        is_due = self.requested or self.replies.is_anybody_pending
        return self._ping_after(0) if is_due else None

    def awaited(self) -> set[str]:
        return set(self.requested - self.replies.heard - self.replies.pongs)

    def _expected(self) -> set[str]:
        return set()
