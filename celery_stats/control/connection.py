"""One private connection to the broker, with time-outs: publish, drain, close.

It never uses the connection and producer pools of the Celery app. An ``inspect()`` call holds one
pooled connection while it waits for a second one, so ten concurrent callers block each other.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from socket import socket
from typing import Any

from celery import Celery
from kombu import Producer
from kombu.exceptions import KombuError
from kombu.utils.uuid import uuid

from .configuration import configure
from .exceptions import BrokerUnavailable
from .limits import UNREADABLE, bound_reads, without_decompression
from .mailboxes import Mailboxes
from .reply_queue import ReplyQueue

logger = logging.getLogger(__name__)

#: The command that every node answers, workers and others.
PING = "ping"

#: The number of tickets of earlier questions that are remembered, because late replies to them
#: are still of use.
REMEMBERED_TICKETS = 32

#: Seconds for which late replies are read at the most. A hostile worker may send any number.
MAX_LATE = 0.1

#: Seconds after the deadline in which an exchange may still begin, so that replies that have
#: arrived are read, and the reply queue is removed.
CLOSING = 0.5

#: The part of the time left that one exchange may take. On AMQP up to three follow each other
#: before the time is looked at again.
EXCHANGE_SHARE = 1 / 3

OnMessage = Callable[[Any], None]


class ControlConnection(Mailboxes):
    """An open connection with a reply queue of its own.

    Not thread-safe: a :class:`~.broker.Connections` lends it to one caller at a time.
    Methods that need the broker raise :class:`BrokerUnavailable` when it fails.

    Attributes:
        ends: the monotonic time of the deadline. No exchange begins later than :data:`CLOSING`
            after it.
        used_at: monotonic seconds of the end of its last question.
        hanging: addresses that cost a time-out when this connection was opened.
        is_reply_expected: whether the question ended before everybody had answered.
        tickets: the tickets of the latest commands, pings excluded, the newest last.
        published: the number of commands published since the reply queue was last opened.
    """

    def __init__(
        self,
        app: Celery,
        deadline: float,
        *,
        ends: float | None = None,
        reply_key: str = "",
        hanging: Collection[str] = (),
    ) -> None:
        """Connect.

        Args:
            app: the Celery app whose broker configuration is honoured.
            deadline: seconds that a snapshot may take in all. Each attempt to connect gets a
                share of it, and each exchange with the broker a share of what is left.
            ends: the monotonic time of the deadline; None: after ``deadline`` from now.
            reply_key: that of a connection that was lost, so that its reply queue is removed.
            hanging: addresses that have just cost a time-out, and are tried last.

        Raises:
            BrokerUnavailable: no broker of the configuration accepted the connection in time.
            RemoteControlUnsupported: the transport cannot broadcast.
        """
        self.pid = os.getpid()
        self.deadline = deadline
        self.used_at = self.now()
        self.ends = self.used_at + deadline if ends is None else ends
        self.is_reply_expected = False
        self.tickets: deque[str] = deque(maxlen=REMEMBERED_TICKETS)
        self.published = 0
        self._read_pending = self._not_reusable = self._skipped = self._failed = False
        self._has_unread = False
        self._on_message: OnMessage = self._ignore
        self._amqp_socket: socket | None = None
        self._configure(app)
        try:
            self._open(app, reply_key, hanging)
        except BaseException:
            self.abandon()
            raise

    def _configure(self, app: Celery) -> None:
        found = configure(app, self.deadline)
        self.connection = connection = found.connection
        self.driver, self.is_virtual, self.urls = found.driver, found.is_virtual, found.urls
        self._hangs_after = found.exchange_timeout / 2
        theirs = *connection.connection_errors, *connection.channel_errors
        self._errors = (KombuError, OSError, *theirs, *UNREADABLE)

    def _open(self, app: Celery, reply_key: str, hanging: Collection[str]) -> None:
        others = max(len(self.connection.alt) - 1, 0)
        for _ in range(others):
            if self.connection.as_uri() in hanging:
                self.connection.maybe_switch_next()
        self.hanging: set[str] = set()
        began = self.now()

        def note_hanging(exc: Exception, interval: float) -> None:
            nonlocal began
            if self.now() - began >= self._hangs_after:
                self.hanging.add(self.connection.as_uri())
            began = self.now()

        with self.guarded():
            self.connection.ensure_connection(
                errback=note_hanging,
                max_retries=others,
                interval_start=0,
                interval_step=0,
                interval_max=0,
                timeout=self.deadline,
            )
            self.channel = self.connection.default_channel
            if self.driver == "amqp":
                self._amqp_socket = self.connection.connection.sock
        with self.guarded():
            self._prepare(app, reply_key)

    def _prepare(self, app: Celery, reply_key: str) -> None:
        self.channel.Message = without_decompression(self.channel.Message)
        self.mailbox = app.control.mailbox(self.connection)
        is_redis = self.driver == "redis"
        self.reply_queue = ReplyQueue(self.mailbox, self.channel, reply_key if is_redis else "")
        exchange, serializer = self.mailbox.exchange, self.mailbox.serializer
        self.producer = Producer(self.channel, exchange=exchange, serializer=serializer)
        if is_redis:
            # kombu uses one of them to wait for messages.
            for pool in (self.channel.pool, self.channel.async_pool):
                bound_reads(pool, self.exchange_timeout)
            self.reply_queue.let_others_expire()

    def _unavailable(self, reason: str) -> BrokerUnavailable:
        self._failed = True
        error = BrokerUnavailable(reason)
        error.urls = self.urls
        return error

    def exchange_timeout(self) -> float:
        """Return the seconds that an exchange with the broker may take if it begins now."""
        return max((self.ends + CLOSING - self.now()) * EXCHANGE_SHARE, 0.001)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise :class:`BrokerUnavailable` where the transport fails, and when it is too late."""
        if self.now() > self.ends + CLOSING:
            raise self._unavailable("the broker was too slow for the deadline")
        try:
            if self._amqp_socket is not None:
                # Not py-amqp's read_timeout option, which loops on EAGAIN.
                self._amqp_socket.settimeout(self.exchange_timeout())
            yield
        except self._errors as exc:
            cause = exc.__cause__ or exc
            raise self._unavailable(f"{type(cause).__name__}: {cause}") from exc

    @contextmanager
    def replies(self, on_message: OnMessage) -> Iterator[None]:
        """Hand every reply to ``on_message``, undecoded.

        Removing the queue takes an answer from the broker, so on a virtual transport a block that
        ends without an error also proves that the broker is still there.
        """
        self._skipped = self.is_reply_expected = False
        self.published = 0
        self._on_message = on_message
        with self.guarded():
            self.reply_queue.open(lambda message: self._on_message(message), self.skip)
        try:
            yield
        finally:
            self._on_message = self._ignore
            if self.is_virtual and not self._failed:
                with self.guarded():
                    self.reply_queue.remove(
                        is_reply_expected=self.is_reply_expected,
                        is_redis=self.driver == "redis",
                    )

    def bind_again(self) -> None:
        """Bind the reply queue again where the broker may have lost the binding."""
        if self.is_virtual:
            with self.guarded():
                self.reply_queue.bind_again()

    def check(self) -> None:
        """Prove that the broker still answers, where closing the reply queue does not.

        Where replies are left unread, they prove it, and an answer would come after all of them.
        """
        if not self.is_virtual and not self._has_unread:
            with self.guarded():
                self.reply_queue.check()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send all that is published in the block at once.

        This saves a round trip for each message where kombu can do it: on Redis, from kombu 5.7.
        """
        batch = getattr(self.producer, "batch", nullcontext)
        with self.guarded(), batch():
            yield

    def publish(
        self,
        command: str,
        arguments: Mapping[str, Any],
        *,
        expires: float,
        workers: Collection[str] = (),
    ) -> str:
        """Broadcast one remote control command; return the ticket that the replies will carry.

        kombu's own ``Mailbox`` publishes with a new reply queue or a pooled producer.

        Args:
            command: its name, such as ``"active"``.
            arguments: its keyword arguments.
            expires: seconds for which an answer is of use.
            workers: the full names of the workers that should answer; empty: all.
        """
        ticket: str = uuid()
        body = {
            "method": command,
            "arguments": dict(arguments),
            "destination": list(workers) or None,
            "pattern": None,
            "matcher": None,
            "ticket": ticket,
            "reply_to": self.reply_queue.address,
        }
        headers = {"clock": self.mailbox.clock.forward(), "expires": time.time() + expires}
        with self.guarded():
            self.producer.publish(body, headers=headers)
        if command != PING:
            self.tickets.append(ticket)
        self.published += 1
        return ticket

    def drain(self, timeout: float) -> bool:
        """Wait some seconds for a message, and hand it on; return whether one came."""
        with self.guarded():
            try:
                self.connection.drain_events(timeout=max(timeout, 0.001))
            except TimeoutError:
                self._read_pending = True
                return False
            except UNREADABLE as exc:
                if not self.is_virtual:
                    raise
                self.skip(None, exc)
                self._not_reusable = True
            self._read_pending = False
            return True

    def read_late(self, on_message: OnMessage) -> None:
        """Hand on the replies that came after the last question, without waiting for more."""
        self.ends = self.now() + MAX_LATE
        if self.reply_queue.is_open:
            self._on_message = on_message
            with suppress(BrokerUnavailable):
                while self.drain(0):
                    pass

    def skip(self, message: Any, reason: Exception | str) -> None:
        """Log, once for a snapshot, that a reply is ignored.

        The log line does not quote the reply or the exception, because they may hold anything.
        """
        if not self._skipped:
            name = reason if isinstance(reason, str) else type(reason).__name__
            logger.warning("A reply could not be read and was skipped: %s", name)
        self._skipped = True

    def _ignore(self, message: Any) -> None:
        """Drop a reply that no question waits for."""

    def leave_replies(self) -> None:
        """Note that replies are left unread, so that the connection is not used again."""
        self._not_reusable = self._has_unread = True

    def close(self) -> None:
        # On AMQP the answer to the closing would come after all that was not read.
        if self._failed or (self._has_unread and not self.is_virtual):
            self.abandon()
        else:
            self._drop_pending_read()
            self.connection.release()

    def abandon(self) -> None:
        """Drop the connection without sending anything to the broker."""
        self._drop_pending_read()
        self.connection.collect()

    def _drop_pending_read(self) -> None:
        """Disconnect a BRPOP that has got no answer.

        kombu's Redis channel waits for that answer when it is closed, for up to a second.
        ``client`` is an attribute that kombu does not document. Without it, closing takes that
        second.
        """
        if self._read_pending and self.driver == "redis":
            with suppress(AttributeError, KeyError):
                vars(self.channel)["client"].connection.disconnect()

    @property
    def reusable(self) -> bool:
        """Whether the next snapshot may use the connection.

        It may not where a BRPOP is still waiting, because the next one would wait behind it; where
        a message could not be read, because the connection may be the reason; and where the
        broker failed, which may have been after the last answer.
        """
        reading = self._read_pending and self.driver == "redis"
        return not (self._failed or self._not_reusable or reading)
