"""Limits on the size and number of replies. A hostile worker may send anything.

kombu reads a message as a whole, so its size is bounded only when it has been read.
"""

from __future__ import annotations

import re
import struct
from typing import Any

#: Bytes of a reply that is decoded. RabbitMQ takes no larger message by default, from version 4.
MAX_REPLY = 16 * 2**20

#: Bytes of all replies to one question. More could not be masked and written within the deadline.
MAX_REPLIES = 64 * 2**20

#: Workers whose replies to one question are kept, names in the list of mailboxes that are read,
#: and nodes that are remembered between questions.
MAX_WORKERS = 10_000

#: Characters of a node's name. A queue of RabbitMQ, such as a mailbox, has no longer name.
MAX_NAME = 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

#: What kombu's virtual transports raise for a payload that is not a message. On AMQP the same
#: errors mean a broken connection, because there they come from the frames of the protocol.
UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, RecursionError, struct.error)


def is_name(name: object) -> bool:
    """Whether this can be the name of a node."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and not _CONTROL.search(name)


def is_too_large(message: Any) -> bool:
    """Whether a kombu message is larger than what is decoded."""
    return len(message.body or "") > MAX_REPLY


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
