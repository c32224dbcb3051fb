"""How many messages wait in the queues of the app's configuration.

A backlog waits in the broker, not in the workers: they hold no more than their prefetch limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Connection, Queue
from kombu.common import Broadcast
from kombu.transport import virtual

#: No more queues than these are looked at: each costs a round trip or two.
MAX_QUEUES = 100


def queue_lengths(app: Celery, connection: Connection, *, within: float = 1.0) -> dict[str, int]:
    """Return the number of messages that wait in each queue, by its name.

    A queue that does not exist has length 0, because Redis keeps no empty ones and cannot tell
    the two apart. A queue whose length the broker refuses to tell is left out.

    Args:
        app: the Celery app whose configuration names the queues.
        connection: an open connection to its broker; replies may be arriving on it.
        within: seconds after which the queues not looked at yet are left out.

    Raises:
        Exception: what the transport raises when the connection fails.
    """
    ends = time.monotonic() + within
    lengths: dict[str, int] = {}
    with _channel(connection) as channel:
        for name in _names(app):
            if len(lengths) == MAX_QUEUES or time.monotonic() >= ends:
                break
            try:
                # A passive declaration asks without creating anything. Where a transport keeps
                # a queue as several lists, one for each priority, it adds them up.
                declared = channel.queue_declare(queue=name, passive=True)
            except connection.channel_errors as exc:
                # A number with AMQP, text with kombu's virtual transports.
                if str(getattr(exc, "reply_code", "")) == "404":
                    lengths[name] = 0
            else:
                lengths[name] = int(declared.message_count)
    return lengths


@contextmanager
def _channel(connection: Connection) -> Iterator[Any]:
    """A channel for declarations that may fail.

    With AMQP a failed declaration closes the channel, and with it its consumers, so it gets a
    channel of its own, which py-amqp opens again. A virtual channel is not closed by it, and
    another one would cost Redis another connection.
    """
    if isinstance(connection.transport, virtual.Transport):
        yield connection.default_channel
        return
    channel = connection.channel()
    try:
        yield channel
    finally:
        connection.maybe_close_channel(channel)


def _names(app: Celery) -> list[str]:
    """Return the names of the queues in the configuration, each once.

    They are read from the configuration and not from ``app.amqp.queues``: a process adds to the
    latter every queue that it ever sends to.
    """
    conf = app.conf
    named = list(_declared(conf.task_queues)) if conf.task_queues else [conf.task_default_queue]
    routes = conf.task_routes or ()
    for router in routes if isinstance(routes, list | tuple) else (routes,):
        named += _routed(router)
    return list(dict.fromkeys(name for name in named if name and isinstance(name, str)))


def _declared(queues: Any) -> Iterator[Any]:
    """Yield the names in ``task_queues``: queues, or a mapping of names to queues or options."""
    by_name = queues.items() if isinstance(queues, Mapping) else ((q.name, q) for q in queues)
    for name, queue in by_name:
        # A broadcast queue has a random name of its own in each process.
        if not isinstance(queue, Broadcast):
            yield queue.name if isinstance(queue, Queue) else name


def _routed(router: Any) -> Iterator[Any]:
    """Yield the names in one router of ``task_routes``; a function's cannot be known."""
    if isinstance(router, Mapping):
        routes = list(router.values())
    elif isinstance(router, list | tuple):
        routes = [pair[1] for pair in router if isinstance(pair, list | tuple) and len(pair) == 2]
    else:
        routes = []
    for route in routes:
        queue = route.get("queue") if isinstance(route, Mapping) else route
        yield queue.name if isinstance(queue, Queue) else queue
