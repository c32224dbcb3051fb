"""The private, bounded connection to the broker, and who is there to answer.

This is the only module that knows one transport from another. It never touches the
Celery app's connection and producer pools: an ``inspect()`` call holds one pooled
connection while it waits for a second one, so ten concurrent callers lock each other out.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote

from celery import Celery
from celery.app import app_or_default
from kombu import Connection, Consumer, Producer
from kombu.exceptions import KombuError
from kombu.transport import virtual
from kombu.utils.imports import symbol_by_name
from kombu.utils.uuid import uuid

from .exceptions import BrokerUnavailable, CeleryAppNotFound, RemoteControlUnsupported
from .queues import queue_lengths

logger = logging.getLogger(__name__)

#: Seconds after which an idle connection is not trusted any more: a firewall or a
#: fail-over may have cut it without a word, and finding that out costs a time-out.
MAX_IDLE = 10.0

#: Connections kept open between snapshots, for each Celery app and process.
MAX_KEPT = 1

#: Seconds for which the workers seen on AMQP are taken for all that there are. AMQP
#: cannot list mailboxes, so a new worker is found by waiting a whole window now and then.
FULL_WINDOW_EVERY = 9.0

#: Seconds between two looks into a broker that cannot wake its readers (the file system).
POLLING_INTERVAL = 0.005

#: Bytes that AMQP allows for the name of a queue.
MAX_QUEUE_NAME = 255

#: What kombu's virtual transports raise for a payload that is no message. From AMQP, whose
#: frames are no payloads, the same errors mean a broken connection.
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, RecursionError, struct.error)

OnMessage = Callable[[Any], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Census:
    """Who could answer, as far as the transport can tell.

    Attributes:
        names: workers that are listed, by full name.
        asleep: those of ``names`` not worth waiting for: they have left earlier
            commands unread.
        live: how many workers are subscribed, where the transport counts; None elsewhere.
        exhaustive: whether workers that are not in ``names`` need not be waited for.
    """

    names: frozenset[str]
    asleep: frozenset[str] = frozenset()
    live: int | None = None
    exhaustive: bool = True


@dataclass
class Memory:
    """What one process remembers of a broker between snapshots, for want of a list."""

    #: AMQP: workers that answered before and have not been found gone since.
    seen: set[str] = field(default_factory=set)
    #: AMQP: monotonic seconds at which the last whole window began.
    window_at: float = float("-inf")
    #: Listed workers that stayed silent for a whole window.
    silent: set[str] = field(default_factory=set)


class Link:
    """An open connection with the mailbox and reply queue of one asker.

    Not thread-safe: whoever leased it from a :class:`Broker` is alone with it.
    Every method raises :class:`BrokerUnavailable` when the broker fails.
    """

    def __init__(self, app: Celery, deadline: float) -> None:
        """Connect.

        Args:
            app: the Celery app whose broker configuration is honoured.
            deadline: seconds that a snapshot may take in all. Each attempt to connect
                and each exchange with the broker gets a share of it.

        Raises:
            BrokerUnavailable: no broker of the configuration accepted us in time.
            RemoteControlUnsupported: the transport has no broadcast.
        """
        self.pid = os.getpid()
        self.deadline = deadline
        self.used_at = time.monotonic()
        self._read_pending = False
        self._unreadable = self._skipped = False
        self._failed = False
        hosts = len(configured(app).alt) or 1
        self.patience = deadline / (hosts + 1)
        connection = configured(
            app,
            connect_timeout=min(
                self.patience, app.conf.broker_connection_timeout or self.patience
            ),
        )
        self.connection = connection
        transport = connection.get_transport_cls()
        self.driver: str = transport.driver_type
        self.is_virtual = issubclass(transport, virtual.Transport)
        self._errors = (
            KombuError,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
            *(() if self.is_virtual else _UNREADABLE),
        )
        if "fanout" not in transport.implements.exchange_type:
            raise RemoteControlUnsupported(f"{self.driver} cannot broadcast to workers")
        self._bound()
        try:
            with self._guarded():
                connection.ensure_connection(
                    max_retries=hosts - 1,
                    interval_start=0,
                    interval_step=0,
                    interval_max=0,
                    timeout=deadline,
                )
                self.channel = connection.default_channel
                if self.driver == "amqp":
                    # py-amqp's read_timeout loops on EAGAIN; a time-out of the socket is kept.
                    connection.connection.sock.settimeout(self.patience)
                self.mailbox = app.control.mailbox(connection)
                # One name for the life of the link: the channel remembers every queue
                # that it ever declared.
                self.reply_queue = self.mailbox.get_reply_queue()
                self.reply_key = self.reply_queue.routing_key = uuid()
                self.reply_queue.name = f"{self.reply_key}.{self.mailbox.reply_exchange.name}"
                self.producer = Producer(
                    self.channel,
                    exchange=self.mailbox.exchange,
                    serializer=self.mailbox.serializer,
                )
        except BaseException:
            self.abandon()
            raise

    def _bound(self) -> None:
        """Put finite time-outs on every exchange with the broker."""
        options = self.connection.transport_options
        if self.driver == "redis":
            options.update(self._timeouts(options), retry_on_timeout=False)
            # What asks the sentinels is a client of its own, and it would try each that
            # is down for seconds.
            asking = options.get("sentinel_kwargs") or {}
            options["sentinel_kwargs"] = {**asking, **self._timeouts(asking), "retry": None}
        elif self.is_virtual:
            options["polling_interval"] = POLLING_INTERVAL

    def _timeouts(self, options: Mapping[str, Any]) -> dict[str, float]:
        """Return redis-py's time-outs: the configured ones where they are shorter than ours."""
        names = ("socket_timeout", "socket_connect_timeout")
        return {name: min(self.patience, options.get(name) or self.patience) for name in names}

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except self._errors as exc:
            self._failed = True
            cause = exc.__cause__ or exc
            raise BrokerUnavailable(f"{type(cause).__name__}: {cause}") from exc

    @contextmanager
    def replies(self, on_message: OnMessage) -> Iterator[None]:
        """Hold the reply queue open; every reply goes to ``on_message``, undecoded.

        Leaving the block removes the queue. That takes an answer from the broker, so a
        block that ends in peace also proves that the broker is still there.
        """
        self._skipped = False
        with self._guarded():
            queue = self.reply_queue(self.channel)
            queue.declare()
            consumer = Consumer(
                self.channel,
                [queue],
                no_ack=True,
                auto_declare=False,
                accept=self.mailbox.accept,
                on_message=on_message,
                on_decode_error=self.skip,
            )
            consumer.consume()
        try:
            yield
        finally:
            if not self._failed:  # else there is nobody to tidy up with
                with self._guarded():
                    consumer.cancel()
                    queue.delete()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Publish everything that is published in the block in one go.

        Saves a round trip for each message where kombu can do it: from 5.7, on Redis.
        """
        batch = getattr(self.producer, "batch", nullcontext)
        with self._guarded(), batch():
            yield

    def publish(
        self,
        command: str,
        arguments: Mapping[str, Any],
        *,
        ticket: str,
        expires: float,
        workers: Collection[str] = (),
    ) -> None:
        """Broadcast one remote control command, in the form that kombu's mailboxes read.

        Args:
            command: its name, such as ``"active"``.
            arguments: its keyword arguments.
            ticket: what the replies will carry.
            expires: seconds for which an answer is of use.
            workers: the full names of those who should answer; empty: all.
        """
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
        with self._guarded():
            self.producer.publish(body, headers=headers)

    def drain(self, timeout: float) -> bool:
        """Hand on what has come.

        Args:
            timeout: seconds to wait for something.

        Returns:
            bool: False when nothing came.
        """
        with self._guarded():
            try:
                self.connection.drain_events(timeout=max(timeout, 0.001))
            except TimeoutError:
                self._read_pending = True
                return False
            except _UNREADABLE as exc:
                if not self.is_virtual:
                    raise
                self.skip(None, exc)
                self._unreadable = True
            self._read_pending = False
            return True

    def skip(self, message: Any, exc: Exception) -> None:
        """Log, once for a snapshot, that a reply counts as no answer.

        Its content may be anything, so it stays out.
        """
        if not self._skipped:
            logger.warning("A reply could not be read and was skipped: %s", type(exc).__name__)
        self._skipped = True

    def census(self, memory: Memory, *, published: int, workers: Collection[str] = ()) -> Census:
        """Find out who could answer what was just published.

        Taken after publishing, so that whoever unsubscribes in between is waited for
        rather than somebody else forgotten.

        Args:
            memory: what is known from earlier snapshots.
            published: the number of commands just published.
            workers: the full names of those who were asked; empty: all.
        """
        with self._guarded():
            if not self.is_virtual:
                return self._census_from_memory(memory, workers)
            names = self._listed()
            live = self._subscribers() if self.driver == "redis" else None
            if live is not None:
                return Census(names, live=live, exhaustive=live <= len(names))
            asleep = {name for name in names & memory.silent if self._unread(name) > published}
            # Redis alone can forget those who listen on, when it is flushed.
            return Census(names, asleep=frozenset(asleep), exhaustive=self.driver != "redis")

    def _census_from_memory(self, memory: Memory, workers: Collection[str]) -> Census:
        if workers:
            unknown = set(workers) - memory.seen
            return Census(frozenset(workers) - self.gone(unknown, within=self.patience))
        fresh = time.monotonic() - memory.window_at < FULL_WINDOW_EVERY
        return Census(frozenset(memory.seen), exhaustive=fresh)

    def _listed(self) -> frozenset[str]:
        """Return the workers in the binding table of the mailboxes' exchange."""
        suffix = f".{self.mailbox.namespace}.pidbox"
        queues = (row[2] for row in self.channel.get_table(self.mailbox.exchange.name))
        return frozenset(q[: -len(suffix)] for q in queues if q.endswith(suffix))

    def _subscribers(self) -> int | None:
        """Return how many workers are subscribed to the mailboxes' topic in Redis.

        PUBLISH says how many subscribers it reached, but kombu drops that number. Workers
        ignore an empty payload, so publishing one counts them and does nothing else.
        ``keyprefix_fanout`` and ``conn_or_acquire`` are attributes of kombu's Redis channel
        that its documentation does not mention; without them nobody is counted, and the
        snapshot waits for the listed workers and a whole window.
        """
        prefix = getattr(self.channel, "keyprefix_fanout", None)
        acquire = getattr(self.channel, "conn_or_acquire", None)
        # Workers older than kombu 5.4 may listen on a second topic behind a sentinel.
        if (
            prefix is None
            or acquire is None
            or getattr(self.channel, "sentinel_fanout_compat", False)
        ):
            return None
        with acquire() as client:
            return int(client.publish(f"{prefix}{self.mailbox.exchange.name}", ""))

    def _unread(self, worker: str) -> int:
        """Return the number of commands that wait in a worker's mailbox."""
        queue = self.mailbox.get_queue(worker)(self.channel)
        return int(queue.queue_declare(passive=True).message_count)

    def gone(self, workers: Collection[str], *, within: float) -> frozenset[str]:
        """Return those of ``workers`` whose mailbox is no longer there; AMQP can tell.

        A mailbox is exclusive to its worker: asking for it is answered with 405 while the
        worker is connected, and with 404 afterwards.

        Args:
            workers: full names.
            within: seconds after which those not asked about yet count as there. Each
                costs a round trip, and a worker can make up any number of names.
        """
        if self.is_virtual or not workers:
            return frozenset()
        ends = time.monotonic() + within
        with self._guarded():
            channel = self.connection.channel()
            try:
                # A copy: replies come in between, and those who answer are awaited no more.
                return frozenset(
                    worker
                    for worker in tuple(workers)
                    if time.monotonic() < ends and not self._mailbox_exists(channel, worker)
                )
            finally:
                self.connection.maybe_close_channel(channel)

    def _mailbox_exists(self, channel: Any, worker: str) -> bool:
        queue = self.mailbox.get_queue(worker)(channel)
        if len(queue.name.encode(errors="replace")) > MAX_QUEUE_NAME:
            return False
        try:
            return bool(queue.queue_declare(passive=True).consumer_count)
        except self.connection.channel_errors as exc:
            return getattr(exc, "code", None) != 404

    def queue_lengths(self, app: Celery, *, within: float) -> dict[str, int]:
        """Return how many messages wait in each queue of the app's configuration."""
        with self._guarded():
            return queue_lengths(app, self.connection, within=within)

    def close(self) -> None:
        """Take leave of the broker."""
        if self._failed:
            self.abandon()
        else:
            self._drop_pending_read()
            self.connection.release()

    def abandon(self) -> None:
        """Drop the connection without another word to a broker that failed."""
        self._drop_pending_read()
        self.connection.collect()

    def _drop_pending_read(self) -> None:
        """Disconnect a BRPOP that nobody will answer.

        kombu's Redis channel waits for it on closing, for up to a second. ``client`` is an
        attribute that kombu does not document; without it closing takes that second.
        """
        if self._read_pending and self.driver == "redis":
            with suppress(AttributeError, KeyError):
                vars(self.channel)["client"].connection.disconnect()

    @property
    def reusable(self) -> bool:
        """Whether the next snapshot may use the link.

        A BRPOP that is still waiting would hold the next one up, and what could not be
        read may be the connection's fault. A broker that failed may have done so after
        the last answer, when the snapshot was whole.
        """
        reading = self._read_pending and self.driver == "redis"
        return not (self._failed or self._unreadable or reading)


class Broker:
    """The links of one Celery app in one process, and what they remember."""

    def __init__(self) -> None:
        self.memory = Memory()
        # Appending to and popping from a deque is atomic: no lock that a fork could
        # leave locked in the child.
        self._idle: deque[Link] = deque()

    def run(self, app: Celery, deadline: float, work: Callable[[Link], T]) -> T:
        """Do ``work`` on a link of its own.

        A kept link that fails is replaced by a new one, once: the broker may have been
        restarted since.

        Args:
            app: the Celery app.
            deadline: seconds that a snapshot may take in all.
            work: what to do; may be called twice.

        Raises:
            BrokerUnavailable: the broker fails on a new link.
        """
        link = self._kept(deadline)
        if link is not None:
            try:
                return self._use(link, work)
            except BrokerUnavailable as exc:
                logger.debug("The kept connection to the broker failed: %s", type(exc.__cause__))
        return self._use(Link(app, deadline), work)

    def _use(self, link: Link, work: Callable[[Link], T]) -> T:
        try:
            result = work(link)
        except BaseException:
            link.abandon()
            raise
        self._keep(link)
        return result

    def _kept(self, deadline: float) -> Link | None:
        with suppress(IndexError):  # others may take the last one
            while True:
                link = self._idle.pop()
                if link.pid != os.getpid():
                    # Opened before a fork: the parent still speaks on this socket.
                    continue
                if time.monotonic() - link.used_at < MAX_IDLE and link.deadline == deadline:
                    return link
                link.abandon()
        return None

    def _keep(self, link: Link) -> None:
        link.used_at = time.monotonic()
        if link.reusable and len(self._idle) < MAX_KEPT:
            self._idle.append(link)
        else:
            link.close()

    def close(self) -> None:
        """Close the kept links."""
        while self._idle:
            self._idle.pop().close()


def find_app(app: Celery | str | None) -> Celery:
    """Return the Celery app that is meant.

    Args:
        app: the app itself, its dotted path (``"project.celery:app"``), or None for the
            current app.

    Raises:
        CeleryAppNotFound: nothing of the kind is at that path.
    """
    if app is None:
        return app_or_default()
    if isinstance(app, str):
        try:
            app = symbol_by_name(app)
        except (ImportError, AttributeError, TypeError, ValueError) as exc:
            raise CeleryAppNotFound(f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(app, Celery):
        raise CeleryAppNotFound(f"a {type(app).__name__} is not a Celery app")
    return app


def configured(app: Celery, **options: Any) -> Connection:
    """Return a connection as the app's configuration has it, not opened.

    Raises:
        BrokerUnavailable: the configuration names no broker, or one that nobody can reach.
        RemoteControlUnsupported: the transport's libraries are not installed.
    """
    if not (app.conf.broker_write_url or app.conf.broker_transport):
        # Celery would try amqp://guest@localhost. Without a word of it in the settings,
        # the app is most likely not the project's own but Celery's default one.
        raise BrokerUnavailable(f"the Celery app {app.main!r} names no broker")
    try:
        connection = app.connection_for_write(**options)
        connection.transport  # noqa: B018 - made at its first use, which may fail
    except ImportError as exc:
        raise RemoteControlUnsupported(f"{type(exc).__name__}: {exc}") from exc
    except ValueError as exc:
        # The text may quote a part of the password: that of "redis://:pa/ss@host".
        raise BrokerUnavailable("the broker's URL cannot be read") from exc
    return connection


def broker_urls(app: Celery) -> list[str]:
    """Return the URLs of the app's broker, fail-over ones included, for their secrets.

    The sentinels' password is among them as the URL of a sentinel: redis-py 6 and 7 quote
    it when no master is found.
    """
    connection = configured(app)
    urls = [*connection.alt, connection.as_uri(include_password=True)]
    asking = connection.transport_options.get("sentinel_kwargs") or {}
    if asking.get("password"):
        urls.append(f"sentinel://:{quote(asking['password'], safe='')}@")
    return urls


@cache
def broker_for(app: Celery) -> Broker:
    """Return this process's broker for a Celery app; nothing is connected yet."""
    return Broker()
