"""The queue in which the replies to this process arrive, and what is left of it in the broker.

On AMQP the queue stays until the connection is closed, so that late replies are read with the next
question. The broker removes it then. A virtual transport would leave the queue behind when the
process is killed, so there it is removed at the end of each question.

A worker that has looked the queue up may add its reply after the queue was removed. Redis keeps
such a list for ever. So where a reply is still expected, a list with a time to live is left, to
which the reply is added; and lists that other processes have left get one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu import Consumer
from kombu.pidbox import Mailbox
from kombu.utils.uuid import uuid
from redis.exceptions import ResponseError

from .exceptions import log_refusal

#: Seconds for which Redis keeps replies that nobody reads any more.
UNREAD_REPLIES_LIVE = 60

#: The most reply queues of other processes that are looked at.
MAX_OTHERS = 100


class ReplyQueue:
    """One reply queue. Its methods may raise what the transport raises.

    Attributes:
        key: the routing key of the replies.
        name: the name of the queue.
        address: where workers send them, as kombu's mailboxes read it.
        exists: whether the queue is in the broker.
    """

    def __init__(self, mailbox: Mailbox, channel: Any, key: str = "") -> None:
        """
        Args:
            mailbox: kombu's description of the mailboxes.
            channel: kombu's channel.
            key: that of a queue that could not be removed from Redis, and is removed with this
                one.
        """
        # It keeps its name as long as the connection, because the channel remembers every queue
        # that it ever declared.
        self._queue = mailbox.get_reply_queue()(channel)
        self.key = self._queue.routing_key = key or uuid()
        exchange = mailbox.reply_exchange.name
        self.name = self._queue.name = f"{self.key}.{exchange}"
        self.address = {"exchange": exchange, "routing_key": self.key}
        self._accept = mailbox.accept
        self._channel = channel
        self._consumer: Consumer | None = None
        self.exists = self._holds_old_replies = bool(key)

    @property
    def is_open(self) -> bool:
        return self._consumer is not None

    def open(
        self,
        on_message: Callable[[Any], None],
        on_decode_error: Callable[[Any, Exception], None],
    ) -> None:
        """Declare the queue, and hand on every reply, undecoded, and what is no whole message."""
        if self._consumer is not None:
            return
        if self._holds_old_replies:
            with self._channel.conn_or_acquire() as client:
                client.delete(self.name)
        self._queue.declare()
        self.exists = True
        self._consumer = Consumer(
            self._channel,
            [self._queue],
            no_ack=True,
            auto_declare=False,
            accept=self._accept,
            on_message=on_message,
            on_decode_error=on_decode_error,
        )
        self._consumer.consume()

    def bind_again(self) -> None:
        """Bind the queue again, because FLUSHDB may have removed the binding from Redis."""
        self._queue.unbind_from(self._queue.exchange, self._queue.routing_key)
        self._queue.queue_bind()

    def check(self) -> None:
        """Ask the broker something, to see whether it still answers."""
        self._queue.queue_declare(passive=True)

    def remove(self, *, is_reply_expected: bool, is_redis: bool) -> None:
        """Remove the queue from a virtual transport."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        consumer.cancel()
        self._queue.delete()
        self.exists = self._holds_old_replies = False
        if is_redis and is_reply_expected:
            self._leave_list_that_expires()

    def _leave_list_that_expires(self) -> None:
        with self._channel.conn_or_acquire() as client:
            try:
                client.lpush(self.name, "")
                self._holds_old_replies = self._expire(client, self.name)
                if not self._holds_old_replies:
                    client.delete(self.name)
            except ResponseError as exc:
                log_refusal("EXPIRE", f"*.{self._queue.exchange.name}", exc)

    def _expire(self, client: Any, name: str) -> bool:
        # kombu's client adds the prefix of keys to some commands, and EXPIRE is none of them.
        key = f"{self._channel.global_keyprefix}{name}"
        return bool(client.expire(key, UNREAD_REPLIES_LIVE))

    def let_others_expire(self) -> None:
        """Give a time to live to replies that nobody reads, such as those to killed processes.

        A living process reads its replies at once, so it loses none. Anybody may have written a
        row, so the name of any other queue in it is ignored.
        """
        exchange = self._queue.exchange.name
        prefix = self._channel.global_keyprefix
        with self._channel.conn_or_acquire() as client:
            try:
                rows = self._channel.get_table(exchange)[:MAX_OTHERS]
                names = [name for *_, name in rows if name.endswith(f".{exchange}")]
                pipe = client.pipeline(transaction=False)
                for name in names:
                    pipe.ttl(f"{prefix}{name}")
                for name, seconds in zip(names, pipe.execute() if names else (), strict=True):
                    if seconds == -1:
                        self._expire(client, name)
            except ResponseError as exc:
                log_refusal("TTL", f"*.{exchange}", exc)
