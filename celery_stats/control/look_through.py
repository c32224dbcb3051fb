"""Looks for tasks in the queues of a broker that lets one look without taking.

These are Redis and kombu's file system. Nothing is taken, moved or written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from kombu import Connection

from .exceptions import log_refusal
from .limits import MAX_REPLY, TOO_LARGE, count_values
from .queues import redis_client, redis_keys

#: The most messages that are looked at for one question, and the most bytes of them.
MAX_MESSAGES = 10_000
MAX_BYTES = 16 * 2**20

#: Messages that are read at once: few at first, because their size is not known.
FIRST_STEP = 8
LARGEST_STEP = 1000


@dataclass(frozen=True)
class Place:
    """Where the broker holds a task.

    Attributes:
        queue: the name of the queue; empty if it is not known, because the task was delivered
            through an exchange.
        before: how many messages of the queue are delivered before it; None if it was delivered
            and the worker has not acknowledged it.
    """

    queue: str
    before: int | None


class Extent(Enum):
    """How much of the queues was looked through."""

    NONE = "none"  #: this broker does not let one look
    PART = "part"
    ALL = "all"


class _Enough(Exception):
    """No more may be looked at, or everything was found."""


class _Search:
    """The tasks that are looked for, what was found, and what may still be looked at."""

    def __init__(self, task_ids: Collection[str], ends: float) -> None:
        self.places: dict[str, Place] = {}
        self.is_whole = True
        self._wanted = set(task_ids)
        # An id as it stands in a message. Only messages that hold one of them are parsed.
        self._marks = [json.dumps(task_id)[1:-1].encode() for task_id in task_ids]
        self._messages, self._bytes, self._ends = MAX_MESSAGES, MAX_BYTES, ends
        self._read = 0

    @property
    def step(self) -> int:
        """How many messages to read at once, from the mean size of those before."""
        if not self._read:
            return FIRST_STEP
        mean = (MAX_BYTES - self._bytes) // self._read + 1
        return max(1, min(LARGEST_STEP, self._messages, self._bytes // mean))

    def look_at(self, message: bytes, queue: str, before: int | None) -> None:
        """Look at a message, or at ``[message, exchange, routing key]`` where ``before`` is None.

        Raises:
            _Enough: everything was found, or no more may be looked at.
        """
        if self._messages <= 0 or self._bytes <= 0 or time.monotonic() >= self._ends:
            self.is_whole = False
            raise _Enough
        self._read += 1
        self._messages -= 1
        self._bytes -= len(message)
        self.is_whole = self.is_whole and message != TOO_LARGE
        if any(mark in message for mark in self._marks):
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                count_values(message)
                parsed = json.loads(message)
                if before is None:
                    parsed, exchange, routing_key = parsed
                    # Without an exchange, the routing key is the name of the queue.
                    queue = "" if exchange else routing_key
                # The id of the task in both protocols of Celery.
                task_id = parsed["properties"]["correlation_id"]
                if task_id in self._wanted:
                    self._wanted.discard(task_id)
                    # Anybody may write to the broker, also what UTF-8 cannot encode.
                    name = str(queue).encode("utf-8", "replace").decode()
                    self.places[task_id] = Place(name, before)
        if not self._wanted:
            raise _Enough


def look_through(
    connection: Connection, queues: Collection[str], task_ids: Collection[str], ends: float
) -> tuple[Mapping[str, Place], Extent]:
    """Return where each task is that was found, and how much was looked through.

    Args:
        connection: an open connection to the broker.
        queues: the names of the queues.
        task_ids: the whole ids of the tasks.
        ends: the monotonic time after which no more is read.

    Raises:
        Exception: whatever the transport raises when the connection fails.
    """
    look = {"redis": _on_redis, "filesystem": _in_files}.get(connection.transport.driver_type)
    if look is None:
        return {}, Extent.NONE
    search = _Search(task_ids, ends)
    with suppress(_Enough):
        look(connection.default_channel, queues, search)
    return search.places, Extent.ALL if search.is_whole else Extent.PART


def _on_redis(channel: Any, queues: Collection[str], search: _Search) -> None:
    from redis import ResponseError

    client = redis_client(channel)
    key = f"{channel.global_keyprefix}{channel.unacked_key}"
    try:
        for _tag, delivered in client.hscan_iter(key, count=FIRST_STEP):
            search.look_at(delivered, "", None)
    except ResponseError as exc:
        search.is_whole = False
        log_refusal("HSCAN", key, exc)
    for queue in queues:
        ahead = 0
        for key in redis_keys(channel, queue):
            ahead += _look_at_list(client, key, queue, ahead, search)


def _look_at_list(client: Any, key: str, queue: str, ahead: int, search: _Search) -> int:
    """Look at the messages of a list; return how many there are.

    New messages are put in on the left, and workers take them from the right. From left to right,
    none is passed over, whatever happens meanwhile.
    """
    from redis import ResponseError

    start = length = 0
    messages: list[bytes] | None = None
    try:
        while messages != []:
            with client.pipeline() as pipe:
                pipe.llen(key)
                pipe.lrange(key, start, start + search.step - 1)
                length, messages = pipe.execute()
            for at, message in enumerate(messages or (), start):
                search.look_at(message, queue, ahead + length - at - 1)
            start += len(messages or ())
    except ResponseError as exc:
        search.is_whole = False
        log_refusal("LRANGE", key, exc)
    return length


def _in_files(channel: Any, queues: Collection[str], search: _Search) -> None:
    folder = Path(channel.data_folder_in)
    names = sorted(path.name for path in folder.iterdir())
    for queue in queues:
        for before, message in enumerate(_files(folder, names, queue)):
            search.look_at(message, queue, before)


def _files(folder: Path, names: Collection[str], queue: str) -> Iterator[bytes]:
    """Yield the messages of a queue in the order in which kombu takes them."""
    for name in names:
        if name.partition(".")[2] == f"{queue}.msg":
            with suppress(FileNotFoundError):  # A worker has taken it meanwhile.
                path = folder / name
                yield path.read_bytes() if path.stat().st_size <= MAX_REPLY else TOO_LARGE
