"""The number of messages that wait in the queues of the app's configuration.

A backlog waits in the broker, because workers hold no more messages than their prefetch limit.
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

#: The most queues whose length is asked for, because each costs at least one round trip to the
#: broker. This is also the most queues that the page, the command and the metrics can show.
MAX_QUEUES = 100


def queue_lengths(app: Celery, connection: Connection, *, within: float = 1.0) -> dict[str, int]:
    """Return the number of messages that wait in each queue, by the name of the queue.

    A queue that does not exist has length 0, because Redis does not keep empty queues and cannot
    distinguish the two. A queue is left out if the broker refuses to tell its length, if it comes
    after the first ``MAX_QUEUES``, or if the time is over.

    Args:
        app: the Celery app whose configuration names the queues.
        connection: an open connection to the broker of the app. Replies of workers may arrive on
            it at the same time.
        within: seconds after which no further queue is asked for.

    Raises:
        Exception: whatever the transport raises when the connection fails.
    """
    ends = time.monotonic() + within
    lengths: dict[str, int] = {}
    with _channel(connection) as channel:
        for name in _names(app)[:MAX_QUEUES]:
            if time.monotonic() >= ends:
                break
            try:
                # A passive declaration does not create the queue. It adds up the lists in which
                # kombu keeps a queue with priorities on Redis.
                declared = channel.queue_declare(queue=name, passive=True)
            except connection.channel_errors as exc:
                # reply_code is an integer with AMQP and a string with kombu's virtual transports.
                if str(getattr(exc, "reply_code", "")) == "404":
                    lengths[name] = 0
            else:
                lengths[name] = int(declared.message_count)
    return lengths


@contextmanager
def _channel(connection: Connection) -> Iterator[Any]:
    """Yield a channel for declarations that may fail.

    With AMQP it is a new channel, because a failed declaration closes its channel and all
    consumers on it; py-amqp then opens the channel again. With kombu's virtual transports it is
    the channel of the connection, because a failed declaration does not close it, and with Redis
    a new channel would open another connection.
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

    ``app.amqp.queues`` is not used, because Celery adds every queue to it that the process has
    sent a task to.
    """
    conf = app.conf
    named = list(_declared(conf.task_queues)) if conf.task_queues else [conf.task_default_queue]
    routes = conf.task_routes or ()
    for router in routes if isinstance(routes, list | tuple) else (routes,):
        named += _routed(router)
    return list(dict.fromkeys(name for name in named if name and isinstance(name, str)))


def _declared(queues: Any) -> Iterator[Any]:
    """Yield the names in ``task_queues``.

    Args:
        queues: a sequence of queues, or a mapping of names to queues or to options of a queue.
    """
    by_name = queues.items() if isinstance(queues, Mapping) else ((q.name, q) for q in queues)
    for name, queue in by_name:
        # The name of a broadcast queue is random and differs in each process.
        if not isinstance(queue, Broadcast):
            yield queue.name if isinstance(queue, Queue) else name


def _routed(router: Any) -> Iterator[Any]:
    """Yield the names of queues in one router of ``task_routes``.

    Args:
        router: a mapping of tasks to routes, or a sequence of such pairs. Anything else, such as a
            function, has no names, because a function chooses the queue when a task is sent.
    """
    if isinstance(router, Mapping):
        routes = list(router.values())
    elif isinstance(router, list | tuple):
        routes = [pair[1] for pair in router if isinstance(pair, list | tuple) and len(pair) == 2]
    else:
        routes = []
    for route in routes:
        queue = route.get("queue") if isinstance(route, Mapping) else route
        yield queue.name if isinstance(queue, Queue) else queue
