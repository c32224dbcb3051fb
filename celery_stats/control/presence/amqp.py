"""AMQP: the broker lists nobody, but tells whether the mailbox of a known name exists."""

from __future__ import annotations

from .base import Presence, silence_before_ping

#: How long new workers are listened for when every known worker has answered: as a share of the
#: time that the known workers took, and in seconds at the least.
GRACE_SHARE = 0.25
MIN_GRACE = 0.001


class AmqpPresence(Presence):
    """A question is complete when every known worker has answered or is gone, after a grace.

    The first question of a process waits a whole ``timeout``, and learns who is there. In the
    grace new workers are heard. One that answers later is known at the next question.

    A worker is gone if it has answered nothing and has no mailbox, neither at the ping nor some
    time later, because a worker that could not encode a reply is without a mailbox for a moment.
    A worker that has lost a reply a short time ago is waited for and named as missing instead.
    """

    def before_asking(self) -> set[str]:
        # A copy, because another question may change the roster: its new workers have not
        # received this question. It is made here, because py-amqp also reads when it publishes,
        # so that late replies may be heard then.
        self._known = self.roster.workers()
        self._awaited_before: str | None = None
        return set()

    def after_asking(self) -> None:
        self._asked_at = self.connection.now()
        self._is_first_window = not self.roster.had_whole_window
        self._without_mailbox = self.connection.missing_mailboxes(self.requested - self._known)

    def hear_late(self, workers: set[str]) -> None:
        for worker in workers:
            self.roster.hear(worker, self.connection.now(), is_worker=True)
        self._known |= workers

    def after_ping(self) -> None:
        self._without_mailbox = self.connection.missing_mailboxes(self.awaited())
        self.needs_second_look = bool(self._without_mailbox)

    def look_again(self) -> bool:
        names, self._without_mailbox = self._without_mailbox, frozenset()
        self.needs_second_look = False
        resetting = self.roster.lately_lost_reply(self.connection.now())
        silent = self.replies.without_reply(names) - resetting
        self.replies.gone |= self.connection.missing_mailboxes(silent)
        return False

    def awaited(self) -> set[str]:
        return set(filter(self._is_awaited, self.requested or self._known))

    def _is_awaited(self, worker: str) -> bool:
        replies = self.replies
        is_over = worker in replies.gone or worker in replies.no_workers
        return not is_over and not replies.is_done(worker)

    def _is_anybody_awaited(self) -> bool:
        # In a large fleet, whoever was awaited before mostly still is, and is looked at first.
        if self._awaited_before is None or not self._is_awaited(self._awaited_before):
            asked = self.requested or self._known
            self._awaited_before = next(filter(self._is_awaited, asked), None)
        return self._awaited_before is not None

    def _may_others_be_there(self) -> bool:
        """Whether there may be workers that are not known, so that a whole ``timeout`` is due.

        That is so in the first question, after a whole fleet has left, and if a reply cannot be
        read, because nobody knows whose it is.
        """
        if self.requested:
            return False
        replies = self.replies
        return self._is_first_window or bool(replies.unreadable) or self._known <= replies.gone

    def _patience_for_others(self) -> float | None:
        if self._is_anybody_awaited() or self._may_others_be_there():
            return None
        if self.requested:
            return 0.0
        return max(MIN_GRACE, GRACE_SHARE * (self.replies.last_answer_at - self._asked_at))

    def ping_after(self) -> float | None:
        is_due = self._is_anybody_awaited()
        if is_due and self._without_mailbox and self.awaited() <= self._without_mailbox:
            return 0.0
        # A ping also finds workers that are not known and lost their reply.
        is_due = is_due or bool(self.replies.pending) or self._may_others_be_there()
        return silence_before_ping(len(self._known)) if is_due else None

    def remember(self, *, whole_window: bool) -> None:
        super().remember(whole_window=whole_window)
        # Its mailbox may be there again by now.
        self.replies.gone &= self.connection.missing_mailboxes(self.replies.gone)
        self.roster.forget(self.replies.gone)
        if whole_window and not self.requested and not self.replies.pending:
            self.roster.had_whole_window = True
        if not self.roster.workers():
            self.roster.had_whole_window = False

    def _expected(self) -> set[str]:
        return self._known - self.replies.gone
