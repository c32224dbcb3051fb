"""What runs inside a worker: everything that was asked for, in one reply.

Each of Celery's inspect commands but ``active_queues`` takes additional arguments and ignores
those that it does not know (``**kwargs`` in every version from 5.3). So a question is sent as one
of these commands with an additional argument. A worker with this app answers all the fields that
the argument names, in one turn of its event loop. A worker without it answers the built-in command
and logs nothing. Without the argument every command answers what Celery's own function returns.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial, wraps
from typing import Any

from celery.signals import worker_init

from .control.limits import MAX_REPLY
from .control.question import ARGUMENT, REPLIES, Extras
from .shapes import FIELDS

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]

#: The commands that a joint reply may answer, in the order in which their replies get room: the
#: small ones first.
COMMANDS = ("stats", "active_queues", "revoked", "query_task", "active", "reserved", "scheduled")

#: Characters of a joint reply to several commands, which is ASCII. A message of several MiB comes
#: late on Redis. 1 000 tasks with ordinary arguments take half of it. Commands that do not fit are
#: asked for one at a time.
MAX_JOINT = 2**20

#: Characters of the reply to one command, with those that are escaped on the way. The rest of the
#: message needs some room.
MAX_ALONE = MAX_REPLY - 2**16


def connect() -> None:
    """Have :func:`register` called when a worker starts. Other processes only connect a signal."""
    worker_init.connect(register, dispatch_uid="celery_stats.register")


def register(**kwargs: Any) -> None:
    """Replace the inspect commands by functions that can answer several fields in one reply.

    ``worker_init`` is sent after the project's modules were imported, so commands that the
    project replaced are answered by the project's functions.
    """
    # Imported here, because it belongs to workers alone.
    from celery.worker.control import Panel

    handlers = {name: Panel.data[name] for name in COMMANDS if name in Panel.data}
    for name in FIELDS:
        if name in handlers:
            handler = handlers[name]
            Panel.data[name] = wraps(handler)(partial(answer, handler, handlers))


def answer(handler: Handler, handlers: dict[str, Handler], state: Any, /, **arguments: Any) -> Any:
    """Answer a built-in command, or all the commands that the additional argument names.

    Args:
        handler: the built-in function of this command.
        handlers: command to its built-in function.
        state: the worker's, as kombu's mailbox passes it on.
        arguments: those of the command. The additional one, :data:`ARGUMENT`, is a dict of
            command to its arguments.

    Returns:
        Any: what ``handler`` returns; with the additional argument ``{ARGUMENT: text}``. The text
        is JSON, so that a worker with any serializer can send it. Nothing is masked: the web
        process does that when it answers the request.
    """
    asked = arguments.pop(ARGUMENT, None)
    if not isinstance(asked, dict):
        return handler(state, **arguments)
    replies = {
        name: _call(handlers[name], state, asked[name])
        for name in COMMANDS
        if name in handlers and isinstance(asked.get(name), dict)
    }
    fitting = ", ".join(_fitting(replies))
    extras = json.dumps(asdict(Extras(time=time.time())))
    return {ARGUMENT: f'{extras[:-1]}, "{REPLIES}": {{{fitting}}}}}'}


def _fitting(replies: dict[str, Any]) -> Iterator[str]:
    """Yield the members of the JSON object of replies, without those that do not fit."""
    room = MAX_ALONE if len(replies) == 1 else MAX_JOINT
    for name, reply in replies.items():
        text = _to_json(reply)
        if len(text) + text.count('"') + text.count("\\") > MAX_ALONE:
            error = f"the reply has {len(text):,} characters, and at most {MAX_ALONE:,} are sent"
            text = json.dumps({"error": error})
        if len(text) <= room:
            room -= len(text)
            yield f"{json.dumps(name)}: {text}"


def _call(handler: Handler, state: Any, arguments: dict[str, Any]) -> Any:
    try:
        return handler(state, **arguments)
    # The project can replace a handler. One that fails must not cost the other commands their
    # answer. Celery answers a command that fails in the same form.
    except Exception as exc:
        logger.exception("A remote control command failed")
        return {"error": repr(exc)}


def _to_json(reply: Any) -> str:
    try:
        return json.dumps(reply, allow_nan=False)
    # Most replies are JSON already, so they are converted only where that is necessary. The
    # arguments of tasks run code of the project here, which may raise anything.
    except Exception:  # noqa: BLE001
        # Imported here, because it needs REST framework, which connect() must not load.
        from .masking.answers import jsonsafe

        return json.dumps(jsonsafe(reply))
