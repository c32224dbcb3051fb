"""What stands in the messages of workers. They are not trusted."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from .connection import ControlConnection
from .limits import MAX_NODES, is_name, measure
from .question import REPLIES, Extras

logger = logging.getLogger(__name__)

#: The names of workers for which it was logged that several workers have this name.
_shared_names_logged: set[str] = set()
_MAX_NAMES_LOGGED = 100


def ticket_of(message: Any) -> str:
    """Return the ticket of a kombu message; empty without one."""
    headers = message.headers
    ticket = headers.get("ticket") if isinstance(headers, Mapping) else None
    return ticket if isinstance(ticket, str) else ""


def workers_in_late_reply(message: Any, connection: ControlConnection) -> set[str]:
    """Return the workers whose reply to an earlier question came after its end."""
    if ticket_of(message) not in connection.tickets:
        return set()
    try:
        measure(message)
        body = message.decode()
    except Exception as exc:  # noqa: BLE001 - decoders are pluggable and may raise anything
        connection.skip(message, exc)
        return set()
    names = filter(is_name, body) if isinstance(body, Mapping) else ()
    return set(islice(names, MAX_NODES))


def decode_joint_reply(text: str, commands: Collection[str]) -> tuple[dict[str, Any], Extras]:
    """Return command to reply, and what a worker with this app sent beside them.

    A command that is missing or cannot be decoded is left out, so that it is asked for alone.
    """
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return {}, Extras()
    replies = reply.get(REPLIES) if isinstance(reply, dict) else None
    if not isinstance(replies, dict):
        return {}, Extras()
    answers = {command: replies[command] for command in commands if command in replies}
    return answers, Extras.read(reply)


def log_shared_name(worker: str) -> None:
    """Log once that two workers share a name, because the answer holds only one of them."""
    if worker not in _shared_names_logged and len(_shared_names_logged) < _MAX_NAMES_LOGGED:
        _shared_names_logged.add(worker)
        logger.warning("Several answers to one question from the worker named %.255r", worker)
