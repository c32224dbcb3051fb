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
from typing import Any

from celery import Celery
from kombu import Consumer, Producer
from kombu.exceptions import KombuError
from kombu.transport import virtual
from kombu.utils.uuid import uuid

from .configuration import (
    broker_urls,
    configured_connection,
    set_options,
    unreadable_url,
)
from .exceptions import BrokerUnavailable, CeleryStatsError, RemoteControlUnsupported
from .limits import UNREADABLE, without_decompression
from .redis_reader import RedisReader

logger = logging.getLogger(__name__)

#: The command that every node answers, workers and others.
PING = "ping"

#: The number of tickets of earlier questions that are remembered, because late replies to them
#: are still of use.
REMEMBERED_TICKETS = 32

#: Seconds for which late replies are read at the most. A hostile worker may send any number.
MAX_LATE = 0.1

OnMessage = Callable[[Any], None]


class ControlConnection:
    """An open connection with a reply queue of its own.

    Not thread-safe: a :class:`~.broker.Broker` lends it to one caller at a time.
    Methods that need the broker raise :class:`BrokerUnavailable` when it fails.

    Attributes:
        exchange_timeout: seconds that one exchange with the broker may take.
        tickets: the tickets of the latest commands, pings excluded, the newest last.
        published: the number of commands published since the reply queue was last opened.
    """

    def __init__(self, app: Celery, deadline: float) -> None:
        """Connect.

        Args:
            app: the Celery app whose broker configuration is honoured.
            deadline: seconds that a snapshot may take in all. Each attempt to connect
                and each exchange with the broker gets a share of it.

        Raises:
            BrokerUnavailable: no broker of the configuration accepted the connection in time.
            RemoteControlUnsupported: the transport cannot broadcast.
        """
        self.pid = os.getpid()
        self.deadline = deadline
        self.used_at = time.monotonic()
        self.tickets: deque[str] = deque(maxlen=REMEMBERED_TICKETS)
        self.published = 0
        self._read_pending = False
        self._not_reusable = self._skipped = False
        self._failed = False
        self._consumer: Consumer | None = None
        self._redis: RedisReader | None = None
        self._on_message: OnMessage = self._ignore
        self._configure(app)
        try:
            self._open(app)
        except BaseException:
            self.abandon()
            raise

    def _configure(self, app: Celery) -> None:
        self.connection = connection = configured_connection(app)
        self.urls: tuple[str, ...] = ()
        self._hosts = len(connection.alt) or 1
        self.exchange_timeout = self.deadline / (self._hosts + 1)
        connection.connect_timeout = min(
            self.exchange_timeout, app.conf.broker_connection_timeout or self.exchange_timeout
        )
        try:
            transport = connection.get_transport_cls()
            self.driver: str = transport.driver_type
            self.is_virtual = issubclass(transport, virtual.Transport)
            # First, because kombu's transport reads its options when it is created, and
            # broker_urls() creates it.
            set_options(connection, transport, self.exchange_timeout)
            self.urls = broker_urls(connection)
            exchange_types = connection.transport.implements.exchange_type
        except (ImportError, KeyError) as exc:
            raise self._named(RemoteControlUnsupported(f"{type(exc).__name__}: {exc}")) from exc
        except ValueError as exc:
            raise unreadable_url() from exc
        if "fanout" not in exchange_types:
            raise RemoteControlUnsupported(f"{self.driver} cannot broadcast to workers")
        theirs = *connection.connection_errors, *connection.channel_errors
        self._errors = (KombuError, OSError, *theirs, *UNREADABLE)

    def _open(self, app: Celery) -> None:
        with self.guarded():
            self.connection.ensure_connection(
                max_retries=self._hosts - 1,
                interval_start=0,
                interval_step=0,
                interval_max=0,
                timeout=self.deadline,
            )
            self.channel = self.connection.default_channel
            if self.driver == "amqp":
                # Not py-amqp's read_timeout option, which loops on EAGAIN.
                self.connection.connection.sock.settimeout(self.exchange_timeout)
            self._prepare(app)

    def _prepare(self, app: Celery) -> None:
        self.channel.Message = without_decompression(self.channel.Message)
        self.mailbox = app.control.mailbox(self.connection)
        # The queue keeps its name as long as the connection, because the channel remembers every
        # queue that it ever declared.
        self.reply_queue = self.mailbox.get_reply_queue()
        self.reply_key = self.reply_queue.routing_key = uuid()
        self.reply_queue.name = f"{self.reply_key}.{self.mailbox.reply_exchange.name}"
        if self.driver == "redis":
            self._redis = RedisReader(self.channel, self.reply_queue.name)
        self.producer = Producer(
            self.channel,
            exchange=self.mailbox.exchange,
            serializer=self.mailbox.serializer,
        )

    def _named(self, error: CeleryStatsError) -> CeleryStatsError:
        error.urls = self.urls
        return error

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what the transport raises into :class:`BrokerUnavailable`."""
        try:
            yield
        except self._errors as exc:
            self._failed = True
            cause = exc.__cause__ or exc
            raise self._named(BrokerUnavailable(f"{type(cause).__name__}: {cause}")) from exc

    @contextmanager
    def replies(self, on_message: OnMessage) -> Iterator[None]:
        """Hand every reply to ``on_message``, undecoded.

        On AMQP the reply queue stays until the connection is closed, so that late replies are
        read with the next question. The broker removes it then. A virtual transport would leave
        the queue behind when the process is killed, so there it is removed at the end of the
        block. Removing takes an answer from the broker, so a block that ends without an error
        also proves that the broker is still there.
        """
        self._skipped = False
        self.published = 0
        self._on_message = on_message
        if self._redis is not None:
            self._redis.start()
        self._open_reply_queue()
        try:
            yield
        finally:
            self._on_message = self._ignore
            if self.is_virtual and not self._failed:
                self._close_reply_queue()

    def _open_reply_queue(self) -> None:
        if self._consumer is not None:
            return
        with self.guarded():
            queue = self.reply_queue(self.channel)
            queue.declare()
            self._consumer = Consumer(
                self.channel,
                [queue],
                no_ack=True,
                auto_declare=False,
                accept=self.mailbox.accept,
                on_message=lambda message: self._on_message(message),
                on_decode_error=self.skip,
            )
            self._consumer.consume()

    def _close_reply_queue(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with self.guarded():
                consumer.cancel()
                self.reply_queue(self.channel).delete()

    def _ignore(self, message: Any) -> None:
        """Drop a reply that no question waits for."""

    def check(self) -> None:
        """Prove that the broker still answers, where closing the reply queue does not."""
        if not self.is_virtual:
            with self.guarded():
                self.reply_queue(self.channel).queue_declare(passive=True)

    @contextmanager
    def together(self) -> Iterator[None]:
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
        """Broadcast one remote control command in the form that kombu's mailboxes read.

        kombu's own ``Mailbox`` publishes with a new reply queue or a pooled producer.

        Args:
            command: its name, such as ``"active"``.
            arguments: its keyword arguments.
            expires: seconds for which an answer is of use.
            workers: the full names of the workers that should answer; empty: all.

        Returns:
            str: the ticket that the replies will carry.
        """
        ticket: str = uuid()
        body = {
            "method": command,
            "arguments": dict(arguments),
            "destination": list(workers) or None,
            "pattern": None,
            "matcher": None,
            "ticket": ticket,
            "reply_to": {
                "exchange": self.mailbox.reply_exchange.name,
                "routing_key": self.reply_key,
            },
        }
        headers = {"clock": self.mailbox.clock.forward(), "expires": time.time() + expires}
        with self.guarded():
            self.producer.publish(body, headers=headers)
        if command != PING:
            self.tickets.append(ticket)
        self.published += 1
        return ticket

    def drain(self, timeout: float) -> bool:
        """Wait for a message; call ``on_message`` for each one that has arrived.

        Args:
            timeout: seconds to wait for a message.

        Returns:
            bool: whether a message came.
        """
        with self.guarded():
            if self._redis is not None and self._redis.read(self._skip_unreadable):
                return True
            try:
                self.connection.drain_events(timeout=max(timeout, 0.001))
            except TimeoutError:
                self._read_pending = True
                return False
            except UNREADABLE as exc:
                if not self.is_virtual:
                    raise
                self._skip_unreadable(exc)
            self._read_pending = False
            if self._redis is not None:
                self._redis.note_reply()
            return True

    def _skip_unreadable(self, exc: Exception) -> None:
        self.skip(None, exc)
        self._not_reusable = True

    def read_late(self, on_message: OnMessage) -> None:
        """Hand on the replies that came after the last question, without waiting for more."""
        ends = time.monotonic() + MAX_LATE
        if self._consumer is not None:
            self._on_message = on_message
            with suppress(BrokerUnavailable):
                while time.monotonic() < ends and self.drain(0):
                    pass

    def skip(self, message: Any, reason: Exception | str) -> None:
        """Log, once for a snapshot, that a reply is ignored.

        The log line does not quote the reply or the exception, because they may hold anything.
        """
        if not self._skipped:
            name = reason if isinstance(reason, str) else type(reason).__name__
            logger.warning("A reply could not be read and was skipped: %s", name)
        self._skipped = True

    def leave_replies(self) -> None:
        """Note that replies are left unread, so that the connection is not used again."""
        self._not_reusable = True

    def close(self) -> None:
        """Close the connection."""
        if self._failed:
            self.abandon()
        else:
            self._drop_pending_read()
            self.connection.release()

    def abandon(self) -> None:
        """Drop the connection without sending anything to the broker."""
        self._drop_pending_read()
        self.connection.collect()

    def _drop_pending_read(self) -> None:
        if self._read_pending and self._redis is not None:
            self._redis.disconnect()

    @property
    def reusable(self) -> bool:
        """Whether the next snapshot may use the connection.

        It may not where a BRPOP is still waiting, because the next one would wait behind it; where
        a message could not be read, because the connection may be the reason; and where the
        broker failed, which may have been after the last answer.
        """
        reading = self._read_pending and self._redis is not None
        return not (self._failed or self._not_reusable or reading)
