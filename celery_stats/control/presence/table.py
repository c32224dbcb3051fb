"""Other virtual transports (file system, MongoDB): a shared table lists the mailboxes."""

from __future__ import annotations

from .base import Presence, silence_before_ping


class TablePresence(Presence):
    """A question is complete when every listed worker has answered.

    A message to all is delivered to the listed mailboxes. A worker that was silent for a whole
    ``timeout`` is not waited for while its mailbox shows that it has not read an older message.
    """

    def after_asking(self) -> None:
        listed = self.connection.listed_names()
        self._is_list_unknown = listed is None
        self._listed = set(listed or ())
        # If more is unread than this question has published, an older message is among it.
        published = self.connection.published
        self._not_reading = {
            name
            for name in self._only_requested(self._listed) & self.roster.absent()
            if self.connection.unread_messages(name) > published
        }

    def _patience_for_others(self) -> float | None:
        if self._is_list_unknown:
            return None
        awaited = self.awaited()
        # A worker that was absent may have begun to read its mailbox.
        grace = silence_before_ping(len(self._listed)) if self._not_reading else 0.0
        if not self.requested:
            return None if awaited else grace
        # A worker that is not listed may be about to bind its mailbox. When every listed worker
        # has answered a ping that was sent after the question, it would have answered, too.
        asked = self.requested - self._not_reading - self.replies.no_workers
        owing = {worker for worker in asked if not self.replies.is_done(worker)}
        had_their_chance = self.replies.pinged.tickets and awaited <= self.replies.only_pongs
        return grace if not owing or (had_their_chance and not owing & awaited) else None

    def ping_after(self) -> float | None:
        is_nobody_listed = bool(self.requested) and not self.requested & self.awaited()
        return 0.0 if is_nobody_listed else silence_before_ping(len(self._listed))

    def awaited(self) -> set[str]:
        awaited = self._may_be_workers(self._listed - self._not_reading)
        return {worker for worker in awaited if not self.replies.is_done(worker)}

    def remember(self, *, whole_window: bool) -> None:
        super().remember(whole_window=whole_window)
        if whole_window and not self.requested:
            for name in self.replies.without_reply(self._listed):
                self.roster.node(name).is_absent = True
        if not self._is_list_unknown:
            self.roster.forget(self.roster.workers() - self._listed)

    def _expected(self) -> set[str]:
        return self._may_be_workers(self._listed)
