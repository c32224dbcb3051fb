"""Redis: the broker counts the subscribers of every message, and lists names."""

from __future__ import annotations

from .base import Presence

#: Seconds without another pong after which the pongs of names that are not listed count.
UNLISTED_GRACE = 0.025

#: Seconds for which a node that is no worker is pinged with each question, and for which a worker
#: that the list has lost is named as missing while somebody is silent.
EXPECTED_FOR = 600.0

#: Seconds after a restart of the server in which workers that were heard before are expected to
#: connect again. Celery tries every few seconds.
RECONNECTING = 60.0


class RedisPresence(Presence):
    """A question is complete when as many nodes have answered it as the message reached.

    A node that has answered a ping that was sent with the question, or after it, counts as well.
    If fewer answer, the question waits for a whole ``timeout``, or for a grace where no listed
    worker is silent and as many stayed silent for a whole ``timeout`` before.

    The list loses names, and a worker that has lost a reply is away for a moment while it resets
    its mailbox. So a known worker that is neither counted nor listed is looked for again, a moment
    after the ping.
    """

    def before_asking(self) -> None:
        roster, now = self.roster, self.connection.now()
        self._asked_at = now
        server = self.connection.server_id()
        if roster.server and server and roster.server != server:
            roster.restarted_at = now
        roster.server = server or roster.server
        #: Workers that were heard not long ago.
        self._known = {
            name
            for name in roster.workers()
            if (roster.nodes[name].heard_at or 0.0) > now - EXPECTED_FOR
        }
        self._losers = roster.losers(now)
        self._is_there = False  # whether a second look is due
        self._count = self.connection.count_nodes()

    def after_asking(self) -> None:
        # A node that is there before or after the question may have been reached by it.
        before, self._listed_once = self._count, frozenset[str]()
        self._look()
        if before is not None and self._count is not None:
            self._count = max(before, self._count)
        self._count_when_asked = self._count or 0
        self._listed_when_asked = self._listed

    def after_ping(self) -> None:
        before = self._count or 0
        self._look()
        self._is_there = (self._count or 0) >= max(before, 1)

    def look_again(self) -> bool:
        before = self._count
        self._look()
        self._is_there = True
        # Whoever has come since was not pinged.
        return self._count != before and bool(self._count)

    @property
    def doubts(self) -> bool:
        return bool(self.replies.ping) and not self._is_there

    def to_ping(self) -> set[str]:
        # So that the number is complete without a wait where ``celery beat`` is there.
        since = self.connection.now() - EXPECTED_FOR
        names = self.roster.no_workers()
        return {name for name in names if (self.roster.nodes[name].heard_at or 0.0) > since}

    def _look(self) -> None:
        self._count = self.connection.count_nodes()
        # If the list cannot be read, the number alone decides.
        self._listed = self.connection.listed_names() or frozenset()
        self._listed_once |= self._listed

    def _patience(self) -> float | None:
        if self._count is None or self.doubts:
            return None
        replies, silent = self.replies, self._silent
        if silent > 0:
            return None if self._is_somebody_waited_for(silent) else self._ping_after(self._count)
        if not replies.ping:
            # A listed worker that is silent gets a ping, unless it was silent to one before,
            # because a hostile worker can answer under several names. So does a known worker that
            # is not there at all, and whoever is away where nobody is there.
            doubtful = self._silent_names() - self.roster.absent()
            return None if doubtful or self._unlisted() or not self._count else 0.0
        # A hostile worker can answer a ping under names that it made up. Such pongs count only if
        # no other pong has come for a moment.
        by_listed = replies.total_of(replies.ping, self._listed)
        return 0.0 if by_listed >= self._count else UNLISTED_GRACE

    def _is_somebody_waited_for(self, silent: int) -> bool:
        """Whether the silence is not the one that lasted for a whole ``timeout`` before."""
        roster = self.roster
        if roster.silent is None or silent > roster.silent or self._silent_names():
            return True
        heard_later = (roster.nodes[name].heard_at or 0.0 for name in self._unlisted())
        return any(heard_at > roster.silent_since for heard_at in heard_later)

    @property
    def _silent(self) -> int:
        """How many nodes have not answered anything.

        They are counted again at the ping. A node may have answered and left before that, or lose
        one of the two while it resets its mailbox, so the smaller number counts.
        """
        silent = self._count_when_asked - self.replies.nodes
        return min(silent, self._silent_to_ping) if self.replies.ping else silent

    @property
    def _silent_to_ping(self) -> int:
        return (self._count or 0) - self.replies.pongs_of_all

    def _silent_names(self) -> set[str]:
        """Return the listed names of workers from which nothing came."""
        listed = self._listed & self.requested if self.requested else self._listed
        return self._may_be_workers(listed - self.replies.heard - self.replies.pongs)

    def _unlisted(self) -> set[str]:
        """Return the known workers that are silent and not listed."""
        known = self._known & self.requested if self.requested else self._known
        return known - self._listed - self.replies.heard - self.replies.pongs

    def ping_after(self) -> float | None:
        # At once where the numbers are complete and a listed worker is silent, and where a worker
        # is asked for by name that cannot answer as far as is known: only a ping can tell.
        is_complete = self._count is not None and self._silent <= 0
        is_complete = is_complete and not self.replies.is_anybody_pending
        doubtful = self._silent_names() - self.roster.absent()
        if (is_complete and doubtful) or (self.requested and not doubtful):
            return 0.0
        return self._ping_after(self._count or 0)

    def awaited(self) -> set[str]:
        return self._silent_names() | self._unlisted()

    def remember(self, *, whole_window: bool) -> None:
        super().remember(whole_window=whole_window)
        if self._count is None:
            return
        roster = self.roster
        if whole_window:
            roster.silent, roster.silent_since = self._silent_without_name, self._asked_at
        elif roster.silent is not None:
            roster.silent = min(roster.silent, max(self._silent, 0))
        if self._silent <= 0 and self.replies.ping:
            for name in self._silent_names():
                roster.node(name).is_absent = True
        if not self.requested:
            roster.forget(self._unlisted() - self._not_left())

    def _not_left(self) -> set[str]:
        """Return the known workers that are not listed and may be there as far as is known.

        That is all of them while somebody is silent or unreadable, and after a restart of the
        server, and those that were listed during the question or are resetting their mailbox.
        """
        unlisted = self._unlisted()
        restarted_at = self.roster.restarted_at
        is_anybody_there = self._silent + self.replies.unreadable > 0 or (
            restarted_at is not None and self.connection.now() - restarted_at < RECONNECTING
        )
        return unlisted if is_anybody_there else unlisted & (self._listed_once | self._losers)

    def _expected(self) -> set[str]:
        # An unknown name counts only if it was listed at both looks: it may just have left.
        listed = self._listed & (self._listed_when_asked | self._known)
        return self._may_be_workers(listed) | self._not_left()

    @property
    def _silent_without_name(self) -> int:
        """How many are silent, without the workers that are named for it."""
        silent = self._listed - self.replies.heard - self.replies.pongs
        return max(0, self._silent - len(self._may_be_workers(silent)) - len(self._not_left()))

    @property
    def is_reply_expected(self) -> bool:
        return self._silent > 0 or (bool(self.replies.ping) and self._silent_to_ping > 0)

    @property
    def unnamed(self) -> int:
        if self.requested and (not self.replies.ping or self.is_whole):
            return 0
        silent = self._listed - self.replies.heard - self.replies.pongs
        others = len(silent) - len(self._may_be_workers(silent))
        return max(0, self._silent_without_name - others)
