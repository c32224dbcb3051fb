"""Limits on the size and number of replies. A hostile worker may send anything.

kombu reads a message as a whole, so its size is bounded only when it has been read.
"""

from __future__ import annotations

import re
import struct
from typing import Any

#: Bytes of a reply that is decoded, and lists and objects in it. One call of ``json.loads`` holds
#: the interpreter, so no other request of the process goes on meanwhile: for up to half a second
#: with these. They are the ordinary arguments of some 16 000 tasks.
MAX_REPLY = 8 * 2**20
MAX_CONTAINERS = 300_000

#: Bytes of what Redis hands to kombu as one message. redis-py copies it twice, and kombu decodes
#: all of it, before anybody can see whose it is.
MAX_PAYLOAD = 4 * MAX_REPLY

#: Bytes of all replies to one question, and values in them. More could not be masked and written
#: within the deadline. A short value takes 30 times as much memory as it has bytes. These are as
#: many as 32 MiB of ordinary tasks hold.
MAX_REPLIES = 32 * 2**20
MAX_VALUES = 1_500_000

#: Workers whose replies to one question are kept, mailboxes that are read from a list, and nodes
#: that are remembered between questions.
MAX_WORKERS = 10_000

#: Characters of a node's name. A queue of RabbitMQ, such as a mailbox, has no longer name.
MAX_NAME = 255

#: What lists, objects and values begin with in JSON, where JSON is inside of a text as well: the
#: last of each are the escapes of these characters, which no honest writer uses.
_CONTAINERS = ("[", "{", r"\u005", r"\u007")
_VALUES = (",", r"\u002")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

#: What kombu's virtual transports raise for a payload that is not a message. On AMQP the same
#: errors mean a broken connection, because there they come from the frames of the protocol.
UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, RecursionError, struct.error)


def is_name(name: object) -> bool:
    """Whether this can be the name of a node."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and not _CONTROL.search(name)


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
    if values > MAX_VALUES or sum(map(text.count, _CONTAINERS)) > MAX_CONTAINERS:
        raise ValueError("it holds too much")
    return values


def bound_payloads(client: Any) -> None:
    """Make a Redis client give kombu an empty text in place of each payload that is too large.

    kombu takes that for a message that cannot be read.

    Args:
        client: that with which kombu's channel waits for messages.
    """
    parse = client.parse_response

    def parse_bounded(connection: Any, command: str, **options: Any) -> Any:
        _bound_reading(connection)
        reply = parse(connection, command, **options)
        # Where another parser read it, such as that of hiredis.
        if command == "BRPOP" and reply and len(reply[1]) > MAX_PAYLOAD:
            return reply[0], b""
        return reply

    client.parse_response = parse_bounded


def _bound_reading(connection: Any) -> None:
    """Make the parser of a Redis connection drop the payload while it comes.

    redis-py documents neither of the two attributes. Without them, the payload is held in memory
    once, or three times, before it is dropped.
    """
    buffer: Any = getattr(getattr(connection, "_parser", None), "_buffer", None)
    if not hasattr(buffer, "read") or hasattr(buffer.read, "is_bounded"):
        return
    read: Any = buffer.read

    def read_bounded(length: int, *args: Any, **options: Any) -> Any:
        if length <= MAX_PAYLOAD:
            return read(length, *args, **options)
        # ``read`` reads two bytes more than it is asked for, the end of a line.
        for start in range(0, length + 2, MAX_REPLY):
            read(min(MAX_REPLY, length + 2 - start) - 2, *args, **options)
        return b""

    read_bounded.is_bounded = True  # type: ignore[attr-defined]
    buffer.read = read_bounded


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
