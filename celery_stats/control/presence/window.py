"""Transports that tell nothing: a list of mailboxes is missing, or local to the process."""

from __future__ import annotations

from .base import Presence, silence_before_ping


class WindowPresence(Presence):
    """A question is complete after a whole ``timeout`` of silence, always.

    A question to named workers is complete when all of them have answered.
    """

    def _patience_for_others(self) -> float | None:
        return None

    def ping_after(self) -> float | None:
        return silence_before_ping(0) if self.requested or self.replies.pending else None

    def awaited(self) -> set[str]:
        return set(self.requested)

    def _expected(self) -> set[str]:
        return set()
