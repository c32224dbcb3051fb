"""What the broker tells about the mailboxes of the workers: how many, which names, which are gone.

Each kind of broker tells something else. The strategies in ``presence/`` conclude from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from kombu import Connection
from kombu.pidbox import Mailbox
from kombu.transport import memory as memory_transport
from kombu.transport import virtual
from redis.exceptions import NoPermissionError, ResponseError

from .exceptions import log_refusal
from .limits import MAX_NODES, MAX_QUEUE_NAME, is_name

logger = logging.getLogger(__name__)

#: Seconds for which mailboxes are looked for.
MAX_LOOK = 0.5


class Mailboxes:
    """The part of a connection that asks the broker who is there."""

    now = staticmethod(time.monotonic)
    connection: Connection
    channel: Any
    mailbox: Mailbox
    is_virtual: bool
    _server_id: str | None = None

    def guarded(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def count_nodes(self) -> int | None:
        """Return how many subscribers a message to all nodes reaches; None if that is unknown.

        Redis only. PUBLISH returns how many subscribers it reached, but kombu drops that number.
        Nodes ignore an empty payload, so publishing one counts them and does nothing else.
        ``keyprefix_fanout`` and ``conn_or_acquire`` are attributes of kombu's Redis channel that
        its documentation does not mention.
        """
        channel = self.channel
        prefix = getattr(channel, "keyprefix_fanout", None)
        acquire = getattr(channel, "conn_or_acquire", None)
        # Workers older than kombu 5.4 may listen on a second topic behind a sentinel.
        if prefix is None or acquire is None or getattr(channel, "sentinel_fanout_compat", False):
            return None
        topic = f"{prefix}{self.mailbox.exchange.name}"
        with self.guarded(), acquire() as client:
            try:
                return int(client.publish(topic, ""))
            except NoPermissionError as exc:
                log_refusal("PUBLISH", topic, exc)
                return None

    def listed_names(self) -> frozenset[str] | None:
        """Return the names in the list of mailboxes; None if it cannot be read.

        The list is the binding table of their exchange. At most :data:`MAX_NODES` names are
        read. A row that is no binding is skipped, because anybody may have written it.
        """
        suffix = f".{self.mailbox.namespace}.pidbox"
        with self.guarded():
            try:
                rows = list(self._rows(self.mailbox.exchange.name))
            except NoPermissionError as exc:
                log_refusal("SMEMBERS", f"_kombu.binding.{self.mailbox.exchange.name}", exc)
                return None
            # It is being written, or somebody else wrote it.
            except (ValueError, TypeError, ResponseError):
                logger.warning("The binding table of the mailboxes cannot be read")
                return None
        queues = (row[2] for row in rows if len(row) == 3 and isinstance(row[2], str))
        names = (queue.removesuffix(suffix) for queue in queues if queue.endswith(suffix))
        return frozenset(name for name in names if is_name(name))

    def _rows(self, exchange: str) -> Iterator[tuple[str, ...]]:
        """Yield the rows of a binding table. Redis' table is counted before it is read."""
        acquire = getattr(self.channel, "conn_or_acquire", None)
        if acquire is not None:
            key = f"{self.channel.global_keyprefix}{self.channel.keyprefix_queue % exchange}"
            with acquire() as client:
                try:
                    if client.scard(key) > MAX_NODES:
                        for entry in islice(client.sscan_iter(key, count=1000), MAX_NODES):
                            yield tuple(entry.decode(errors="replace").split(self.channel.sep))
                        return
                except ResponseError:  # The user may not count it.
                    pass
        yield from self.channel.get_table(exchange)

    @property
    def has_shared_table(self) -> bool:
        """Whether the binding table is the same for all processes.

        A transport that inherits ``get_table`` from kombu's ``virtual.Channel`` keeps the table in
        its own process. Such a table is complete only where there is one process (``memory``).
        """
        return self.is_virtual and (
            isinstance(self.connection.transport, memory_transport.Transport)
            or type(self.channel).get_table is not virtual.Channel.get_table
        )

    def unread_messages(self, name: str) -> int:
        """Return how many messages wait in a node's mailbox. Not on Redis and AMQP."""
        queue = self.mailbox.get_queue(name)(self.channel)
        with self.guarded():
            return int(queue.queue_declare(passive=True).message_count)

    def missing_mailboxes(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the names that have no mailbox. AMQP only.

        A mailbox is exclusive to its worker: a passive declaration fails with 405 while the
        worker is connected, and with 404 afterwards. Each costs a round trip, and a hostile worker
        can make up any number of names. So the names for which no time is left count as there.
        """
        if not names:
            return frozenset()
        ends = self.now() + MAX_LOOK
        with self.guarded():
            channel = self.connection.channel()
            try:
                return frozenset(
                    name
                    for name in names
                    if self.now() < ends and not self._has_mailbox(channel, name)
                )
            finally:
                self.connection.maybe_close_channel(channel)

    def _has_mailbox(self, channel: Any, name: str) -> bool:
        queue = self.mailbox.get_queue(name)(channel)
        if len(queue.name.encode(errors="replace")) > MAX_QUEUE_NAME:
            return False
        try:
            return bool(queue.queue_declare(passive=True).consumer_count)
        except self.connection.channel_errors as exc:
            return getattr(exc, "code", None) != 404

    def server_id(self) -> str:
        """Return what tells the running Redis server from the one before; empty if refused.

        A connection cannot survive the server, so it is asked once.
        """
        if self._server_id is None:
            with self.guarded(), self.channel.conn_or_acquire() as client:
                try:
                    self._server_id = str(client.info("server").get("run_id", ""))
                except ResponseError as exc:
                    log_refusal("INFO", "server", exc)
                    self._server_id = ""
        return self._server_id
