"""Limits on the size, number and time of replies. A hostile worker may send anything.

kombu reads a message as a whole, so its size is bounded only when it has been read. On Redis, what
is too large is dropped while it comes, but with hiredis, when it has been read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from celery_stats.shapes import CONTROL

#: Bytes of a reply that is decoded, and lists and objects in it. One call of ``json.loads`` holds
#: the interpreter, so no other request of the process goes on meanwhile: for up to half a second
#: with these. They are the ordinary arguments of some 16 000 tasks.
MAX_REPLY = 8 * 2**20
MAX_REPLY_CONTAINERS = 300_000

#: Bytes in one answer of Redis. A reply has a third more than its body there. redis-py copies it,
#: and kombu decodes all of it, before anybody can see whose it is.
MAX_PAYLOAD = 2 * MAX_REPLY

#: What is read from Redis in place of a text that is too large. It is no message and no JSON.
TOO_LARGE = b"too large"

#: Bytes of all replies to one question, and values in them. More could not be masked and written
#: within the deadline. A short value takes 30 times as much memory as it has bytes. These are as
#: many as 32 MiB of ordinary tasks hold.
MAX_REPLIES = 32 * 2**20
MAX_REPLIES_VALUES = 1_500_000

#: Workers whose replies to one question are kept, mailboxes that are read from a list, and nodes
#: that are remembered between questions.
MAX_NODES = 10_000

#: Bytes that AMQP allows for the name of a queue, and characters of a node's name, which is a part
#: of the name of its mailbox.
MAX_QUEUE_NAME = MAX_NODE_NAME = 255

#: What is counted in JSON: the characters with which lists and objects begin, and the comma
#: between values. A joint reply is JSON inside a text, in which a writer can escape these
#: characters. No honest writer does, so the beginnings of their escapes are counted as well.
_CONTAINERS = ("[", "{", r"\u005", r"\u007")
_VALUES = (",", r"\u002")

#: What kombu's virtual transports raise for a payload that is not a message. On AMQP the same
#: errors mean a broken connection, because there they come from the frames of the protocol.
UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, RecursionError, struct.error)


def is_name(name: object) -> bool:
    """Whether this can be the name of a node."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NODE_NAME and not CONTROL.search(name)


def measure(message: Any) -> tuple[int, int]:
    """Return how many bytes and how many values a kombu message holds.

    Raises:
        ValueError: it is larger than what is decoded.
    """
    body = message.body or ""
    if len(body) > MAX_REPLY:
        raise ValueError("it is too large")
    return len(body), count_values(body)


def count_values(data: str | bytes) -> int:
    """Return about how many values there are in JSON.

    Raises:
        ValueError: there are more of them, or more lists and objects, than are decoded.
    """
    text = data if isinstance(data, str) else bytes(data).decode("latin-1")
    values = sum(map(text.count, _VALUES))
    if values > MAX_REPLIES_VALUES or sum(map(text.count, _CONTAINERS)) > MAX_REPLY_CONTAINERS:
        raise ValueError("it holds too much")
    return values


def bound_reads(pool: Any, timeout: Callable[[], float] | None = None) -> None:
    """Bound what a pool's connections to Redis read, and how long they wait for it.

    They read :data:`TOO_LARGE` for texts that are too large, which kombu takes for a message that
    cannot be read. All texts of one answer of Redis together may have :data:`MAX_PAYLOAD` bytes,
    so that an answer that is a list is bounded as well. With hiredis, each of them may.

    Args:
        pool: its connections.
        timeout: gives the seconds that an answer may take from now; None: as configured.
    """

    def bounded(give: Any, *args: Any, **options: Any) -> Any:
        connection = give(*args, **options)
        if "read_response" not in vars(connection):
            read = connection.read_response
            connection.read_response = partial(_read_reply, connection, read, timeout)
        return connection

    # New connections read answers while they connect, before the pool gives them away.
    for name in ("make_connection", "get_connection"):
        setattr(pool, name, partial(bounded, getattr(pool, name)))


def _read_reply(
    connection: Any,
    read: Any,
    timeout: Callable[[], float] | None,
    *args: Any,
    **options: Any,
) -> Any:
    """Read one answer. redis-py documents neither its socket nor its parser and their buffer."""
    sock: Any = getattr(connection, "_sock", None)
    if sock is not None and timeout is not None:
        sock.settimeout(timeout())
    buffer: Any = getattr(getattr(connection, "_parser", None), "_buffer", None)
    if not hasattr(buffer, "read"):  # Another parser, such as that of hiredis, is read first.
        return _without_large(read(*args, **options))
    if "read" not in vars(buffer):
        buffer.read = partial(_read_bulk, buffer, buffer.read)
    buffer.left = MAX_PAYLOAD
    return read(*args, **options)


def _read_bulk(buffer: Any, read: Any, length: int, *args: Any, **options: Any) -> bytes:
    """Read one text of an answer, or drop it while it comes."""
    if length <= buffer.left:
        buffer.left -= length
        data: bytes = _without_large(read(length, *args, **options))
        return data
    # ``read`` reads two bytes more than it is asked for, the end of a line. The buffer keeps what
    # was read until nothing is left in it.
    left = length + 2
    while left:
        part = min(left, buffer.unread_bytes() or 1)
        read(part - 2, *args, **options)
        buffer.purge()
        left -= part
    return TOO_LARGE


def _without_large(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_without_large(item) for item in reply]
    # Less cannot hold too much.
    if not isinstance(reply, bytes) or len(reply) <= MAX_REPLY_CONTAINERS:
        return reply
    try:
        count_values(reply)
    except ValueError:
        return TOO_LARGE
    return reply if len(reply) <= MAX_PAYLOAD else TOO_LARGE


def without_decompression(message_class: type[Any]) -> type[Any]:
    """Return a channel's class of messages, without kombu's decompression.

    kombu decompresses a message when it is received, to whatever size. Workers send their replies
    uncompressed. A compressed reply cannot be decoded, so it is skipped. ``Channel.Message`` is an
    attribute that kombu does not document.
    """

    class Message(message_class):  # type: ignore[misc]
        def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
            # A virtual transport has a dict here, py-amqp an object.
            headers = payload.get("headers") if isinstance(payload, dict) else payload.headers
            if isinstance(headers, dict):
                headers.pop("compression", None)
            super().__init__(payload, channel=channel, **options)

    return Message
