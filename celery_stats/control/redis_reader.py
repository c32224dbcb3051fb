"""What kombu's Redis channel does not offer: several replies in one round trip.

kombu reads one message with each BRPOP. With hundreds of workers these round trips are nearly half
of what a snapshot costs its own process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kombu.utils.json import loads

from .limits import UNREADABLE

#: Replies that are read at once at the most. They are all in memory then, and a hostile worker may
#: send large ones.
COUNT = 16

#: After so many replies, and when the last read did not bring :data:`COUNT` of them, the reader
#: lets further ones gather for so many seconds.
MANY = 64
GATHER = 0.005


class RedisReader:
    """Reads replies that are already there, with RPOP.

    It uses the connection of kombu's BRPOP, and only while no BRPOP waits on it. ``client`` is an
    attribute of kombu's Redis channel that its documentation does not mention. Without it, on a
    server older than Redis 6.2, and for a user who may not call RPOP, BRPOP reads every reply.
    """

    def __init__(self, channel: Any, queue: str) -> None:
        """
        Args:
            channel: kombu's Redis channel.
            queue: the name of the reply queue.
        """
        self._channel = channel
        self._queue = queue
        self._supported = hasattr(type(channel), "client")
        self.start()

    def start(self) -> None:
        """Note that a question begins."""
        self._may_be_more = False
        self._last = COUNT
        self._read = 0

    def note_reply(self) -> None:
        """Note that BRPOP has brought a reply, so others may be there."""
        self._may_be_more = self._supported

    def read(self, skip: Callable[[Exception], None]) -> bool:
        """Hand the replies that are there to their consumer, at most :data:`COUNT`.

        Args:
            skip: called with the error for each payload that is not a message.

        Returns:
            bool: whether there were any.
        """
        payloads = self._take() if self._may_be_more else []
        for payload in payloads:
            try:
                # As kombu does with what BRPOP brings.
                message = loads(payload)
                self._channel.connection.on_message_ready(self._channel, message, self._queue)
            except UNREADABLE as exc:  # noqa: PERF203 - the others are still read
                skip(exc)
        return bool(payloads)

    def _take(self) -> list[bytes]:
        if self._read >= MANY and self._last < COUNT:
            time.sleep(GATHER)
        try:
            payloads = self._channel.client.rpop(self._queue, COUNT) or []
        except self._channel.ResponseError:
            self._supported = False
            payloads = []
        self._last = len(payloads)
        self._read += len(payloads)
        self._may_be_more = bool(payloads)
        return payloads

    def disconnect(self) -> None:
        """Disconnect the connection of a BRPOP that has got no answer.

        kombu's channel waits for that answer when it is closed, for up to a second. Without
        ``client`` closing takes that second.
        """
        with suppress(AttributeError, KeyError):
            vars(self._channel)["client"].connection.disconnect()
