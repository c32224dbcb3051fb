"""The number of messages that wait in each queue.

A backlog waits in the broker, because workers hold no more messages than their prefetch limit.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Connection, Queue
from kombu.common import Broadcast
from kombu.transport import virtual

from .exceptions import log_refusal
from .limits import MAX_QUEUE_NAME

#: The most queues whose length is asked for, because with AMQP each costs a round trip to the
#: broker. This is also the most queues that the page, the command and the metrics can show.
MAX_QUEUES = 100


def queue_lengths(
    app: Celery, connection: Connection, consumed: Collection[str], within: float
) -> dict[str, int]:
    """Return the number of messages that wait in each queue, by the name of the queue.

    A queue that does not exist has length 0, because Redis does not keep empty queues and cannot
    distinguish the two. A queue is left out if the broker refuses to tell its length, which is
    logged once, if it comes after the first ``MAX_QUEUES``, or if the time is over.

    Args:
        app: the Celery app whose configuration names the queues.
        connection: an open connection to the broker of the app. Replies of workers may arrive on
            it at the same time.
        consumed: the names of other queues, see :func:`consumers_by_queue`.
        within: seconds after which no further queue is asked for.

    Raises:
        Exception: whatever the transport raises when the connection fails.
    """
    ends = time.monotonic() + within
    names = list(dict.fromkeys([*_names(app), *consumed]))[:MAX_QUEUES]
    if within <= 0:
        return {}
    if connection.transport.driver_type == "redis":
        return _lengths_on_redis(connection.default_channel, names)
    lengths: dict[str, int] = {}
    with _channel(connection) as channel:
        for name in names:
            if time.monotonic() >= ends:
                break
            try:
                lengths[name] = _length(channel, name)
            except connection.channel_errors as exc:
                if str(getattr(exc, "reply_code", "")) == "404":
                    lengths[name] = 0
                else:
                    log_refusal("Queue.Declare", name, exc)
    return lengths


def consumers_by_queue(replies: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the workers that consume each queue, from their replies to ``active_queues``.

    Queues of a broadcast are left out. Each worker has one of its own, with a random name.
    """
    consumers: dict[str, list[str]] = {}
    for worker, reply in sorted(replies.items()):
        for queue in reply if isinstance(reply, list | tuple) else ():
            described = queue if isinstance(queue, Mapping) else {}
            name, exchange = described.get("name"), described.get("exchange")
            if isinstance(exchange, Mapping) and exchange.get("type") == "fanout":
                continue
            if isinstance(name, str) and _is_name(name):
                consumers.setdefault(name, []).append(worker)
    return dict(sorted(consumers.items()))


def _is_name(name: str) -> bool:
    """Whether a broker can be asked for a queue of this name, which a worker chose."""
    encoded = name.encode("utf-8", "replace")
    return 0 < len(encoded) <= MAX_QUEUE_NAME and name == encoded.decode()


def redis_keys(channel: Any, queue: str) -> list[str]:
    """Return the keys of the lists in which kombu keeps a queue, the first delivered first.

    There is one for each priority. kombu adds ``global_keyprefix`` to the keys of some commands
    only, so this module and ``look_through.py`` add it themselves.
    """
    keys = [channel._q_for_pri(queue, priority) for priority in channel.priority_steps]
    return [f"{channel.global_keyprefix}{key}" for key in dict.fromkeys(keys)]


def redis_client(channel: Any) -> Any:
    """Return a client that adds nothing to keys, on the connections of the channel."""
    from redis import Redis

    return Redis(connection_pool=channel.pool)


def _lengths_on_redis(channel: Any, names: Collection[str]) -> dict[str, int]:
    """Return the lengths of all queues, which cost one round trip together.

    Neither a passive declaration nor ``exists`` is used, because kombu asks for keys without the
    prefix there.
    """
    from redis import ResponseError

    keys_by_name = {name: redis_keys(channel, name) for name in names}
    with redis_client(channel).pipeline(transaction=False) as pipe:
        for keys in keys_by_name.values():
            for key in keys:
                pipe.llen(key)
        answers = iter(pipe.execute(raise_on_error=False))
    lengths: dict[str, int] = {}
    for name, keys in keys_by_name.items():
        found = [next(answers) for _ in keys]
        refused = next((answer for answer in found if isinstance(answer, Exception)), None)
        if refused is None:
            lengths[name] = sum(found)
        elif isinstance(refused, ResponseError):
            log_refusal("LLEN", keys[0], refused)
        else:
            raise refused
    return lengths


def _length(channel: Any, name: str) -> int:
    if isinstance(channel, virtual.Channel):
        return int(channel._size(name))
    # A passive declaration does not create the queue.
    return int(channel.queue_declare(queue=name, passive=True).message_count)


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
