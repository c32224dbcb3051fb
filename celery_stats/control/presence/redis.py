"""Redis: the broker counts the subscribers of every message, and lists names."""

from __future__ import annotations

from typing import NamedTuple

from celery_stats.control.replies import NO_NAME, NodeCount

from .base import Presence, silence_before_ping

#: Seconds without another pong after which the pongs of names that are not listed count.
UNLISTED_PONG_GRACE = 0.025

#: Seconds for which a node that is no worker is pinged with each question, and for which a worker
#: that the list has lost is named as missing while somebody is silent.
EXPECTED_FOR = 600.0

#: Seconds after a restart of the server in which workers that were heard before are expected to
#: connect again. Celery tries every few seconds.
RECONNECTING = 60.0


class Look(NamedTuple):
    """What was seen at one time.

    Attributes:
        subscribers: how many; None if they cannot be counted.
        listed: the names in the list. If it cannot be read, the number alone decides.
    """

    subscribers: int | None
    listed: frozenset[str]


class RedisPresence(Presence):
    """A question is complete when as many nodes have answered it as the message reached.

    A node that has answered a ping that was sent with the question, or after it, counts as well.
    If fewer answer, the question waits for a whole ``timeout``, or for a grace where no listed
    worker is silent and as many stayed silent for a whole ``timeout`` before.

    The list loses names, and a worker that has lost a reply is away for a moment while it resets
    its mailbox. So a known worker that is neither counted nor listed is looked for again, a moment
    after the ping.
    """

    def before_asking(self) -> set[str]:
        roster, now = self.roster, self.connection.now()
        self._asked_at = now
        server = self.connection.server_id()
        if roster.server and server and roster.server != server:
            roster.restarted_at = now
        roster.server = server or roster.server
        lately = roster.names(lambda node: node.heard_at > now - EXPECTED_FOR)
        #: Workers that were heard not long ago.
        self._known = lately & roster.workers()
        self._count_before = self.connection.count_nodes()
        # So that the number is complete without a wait where ``celery beat`` is there.
        return lately - self._known

    def after_asking(self) -> None:
        count, listed = self._look()
        if count is not None:
            # A node that is there before or after the question may have been reached by it.
            count = max(count, self._count_before or 0)
        #: What was seen, the latest last: after the question, after each ping to all, and between.
        self._looks = [Look(count, listed)]
        #: The pings to all nodes since the last change of the number of subscribers, each with
        #: that number.
        self._pings: list[tuple[int, NodeCount]] = []

    def after_ping(self) -> None:
        before = self._count
        self._looks.append(self._look())
        self._pings.append((self._count, self.replies.pinged))
        self.needs_second_look = self._count < max(before, 1) or bool(self._silent_unlisted)

    def look_again(self) -> bool:
        before, listed_once = self._count, self._listed_once
        self._looks.append(self._look())
        self.needs_second_look = False
        # One node may have left and another one come, so that the number is the same.
        has_changed = self._count != before or not self._listed <= listed_once
        if has_changed and self._count:
            self._pings.clear()  # Whoever has come since was not pinged.
            return True
        # A worker that has lost a reply resets its mailbox, and another one may have come back
        # meanwhile. Then the number is the same, and not everybody who is counted was pinged.
        return self._count > 0 and bool(self.replies.pending or self.replies.lost)

    def _look(self) -> Look:
        return Look(self.connection.count_nodes(), self.connection.listed_names() or frozenset())

    @property
    def _is_counted(self) -> bool:
        return self._looks[-1].subscribers is not None

    @property
    def _count(self) -> int:
        return self._looks[-1].subscribers or 0

    @property
    def _listed(self) -> frozenset[str]:
        return self._looks[-1].listed

    @property
    def _listed_once(self) -> frozenset[str]:
        """The names that were listed at any look."""
        return frozenset[str]().union(*(look.listed for look in self._looks))

    def _patience_for_others(self) -> float | None:
        if not self._is_counted or self.needs_second_look:
            return None
        silent, pinged = self._silent, self.replies.pinged
        if silent > 0:
            is_waited_for = self._is_somebody_waited_for(silent)
            return None if is_waited_for else silence_before_ping(self._count)
        if not pinged.tickets:
            # A listed worker that is silent gets a ping, unless it was silent to one before,
            # because a hostile worker can answer under several names. So does a known worker that
            # is not there at all, and whoever is away where nobody is there.
            return None if self._newly_silent or self._silent_unlisted or not self._count else 0.0
        # A hostile worker can answer a ping under names that it made up. Such pongs count only if
        # no other pong has come for a moment.
        by_listed = sum(pinged.by_name[name] for name in self._listed)
        return 0.0 if by_listed >= self._count else UNLISTED_PONG_GRACE

    def _is_somebody_waited_for(self, silent: int) -> bool:
        """Whether the silence is not the one that lasted for a whole ``timeout`` before."""
        roster = self.roster
        before = roster.not_waited_for
        if before is None or silent > before or self._silent_names:
            return True
        heard_later = roster.names(lambda node: node.heard_at > roster.not_waited_for_since)
        return not heard_later.isdisjoint(self._silent_unlisted)

    @property
    def _silent(self) -> int:
        """How many nodes have not answered anything.

        They are counted again at the ping. A node may have answered and left before that, or lose
        one of the two while it resets its mailbox, so the smaller number counts. Replies that
        cannot be read do not count then, because a hostile worker can send any number of them.
        """
        asked = self.replies.asked
        silent = (self._looks[0].subscribers or 0) - asked.nodes
        if not self.replies.pinged.tickets:
            return silent
        return min(silent + asked.by_name[NO_NAME], self._silent_to_ping)

    @property
    def _silent_to_ping(self) -> int:
        """How many nodes did not answer the ping that the most nodes have answered.

        Each ping to all shows by itself who is silent. A worker may lose only some of them.
        """
        return min(min(self._count, count) - pinged.nodes for count, pinged in self._pings)

    @property
    def _is_somebody_silent(self) -> bool:
        """Whether a node has not answered. One that came after the question counts as well."""
        is_pinged = bool(self.replies.pinged.tickets)
        return self._silent > 0 or (is_pinged and self._silent_to_ping > 0)

    @property
    def _silent_names(self) -> set[str]:
        """The listed names of workers from which nothing came."""
        listed = self._only_requested(set(self._listed))
        return self._may_be_workers(self.replies.without_reply(listed))

    @property
    def _newly_silent(self) -> set[str]:
        """Those of them that are not absent."""
        return self._silent_names - self.roster.absent()

    @property
    def _silent_unlisted(self) -> set[str]:
        """The known workers that are silent and not listed."""
        return self.replies.without_reply(self._only_requested(self._known) - self._listed)

    def ping_after(self) -> float | None:
        # At once where the numbers are complete and a listed worker is silent, and where a worker
        # is asked for by name that cannot answer as far as is known: only a ping can tell. Who is
        # silent is looked up last, because that takes long in a large fleet.
        is_complete = self._is_counted and self._silent <= 0 and not self.replies.pending
        if self.requested:
            is_due = is_complete or not self._newly_silent
        else:
            is_due = is_complete and bool(self._newly_silent)
        return 0.0 if is_due else silence_before_ping(self._count)

    def awaited(self) -> set[str]:
        # With the absent: a ping by name shows whether they are back.
        return self._silent_names | self._silent_unlisted

    def remember(self, *, whole_window: bool) -> None:
        super().remember(whole_window=whole_window)
        if not self._is_counted:
            return
        roster, is_pinged = self.roster, bool(self.replies.pinged.tickets)
        silent = self.replies.without_reply(self._listed)
        workers = self._may_be_workers(silent)
        # How many are silent, without the workers that are named for it.
        without_name = max(0, self._silent - len(workers) - len(self._still_expected()))
        if whole_window:
            roster.not_waited_for, roster.not_waited_for_since = without_name, self._asked_at
        elif roster.not_waited_for is not None:
            roster.not_waited_for = min(roster.not_waited_for, max(self._silent, 0))
        if is_pinged and not self._is_somebody_silent:
            for name in self._silent_names:
                roster.node(name).is_absent = True
        if not self.requested:
            roster.forget(self._silent_unlisted - self._still_expected())
        self.is_reply_expected = self._is_somebody_silent
        if not self.requested or (is_pinged and not self.is_whole):
            self.silent_subscribers = max(0, without_name - len(silent - workers))

    def _still_expected(self) -> set[str]:
        """Return the known workers that are not listed and may be there as far as is known.

        That is all of them while somebody is silent or unreadable, or has left without an answer,
        and after a restart of the server, and those that were listed during the question or are
        resetting their mailbox.
        """
        unlisted, now = self._silent_unlisted, self.connection.now()
        is_restarted = now - self.roster.restarted_at < RECONNECTING
        # A slow worker may be resetting its mailbox at the last look, and have one again soon.
        has_left = (self._looks[0].subscribers or 0) > self.replies.answered.nodes
        if is_restarted or has_left or self._is_somebody_silent or self.replies.unreadable:
            return unlisted
        return unlisted & (self._listed_once | self.roster.lately_lost_reply(now))

    def _expected(self) -> set[str]:
        # An unknown name counts only if it was listed at both looks: it may just have left.
        listed = self._listed & (self._looks[0].listed | self._known)
        return self._may_be_workers(set(listed)) | self._still_expected()
