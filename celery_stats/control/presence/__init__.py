"""Who is there to answer a question: one strategy for each kind of transport.

Words that all strategies use:

    listed      the broker has a mailbox of this name in its binding table
    counted     the number of subscribers that a message to all reached (Redis)
    requested   the workers that a caller named with ``worker``
    no worker   a node that answers pings and no worker command, such as ``celery beat``
    gone        a worker whose mailbox does not exist any more (AMQP)

The main question to a strategy is :meth:`~.base.Presence.seconds_to_listen`: for how long may an
answer still come? How the strategies differ:

    ====================  ===================  =======================  =======================
    strategy              lists names          a killed worker          a new worker
    ====================  ===================  =======================  =======================
    RedisPresence         yes, and counts      stays listed, is not     is counted
                          the living           waited for
    AmqpPresence          no                   is gone at once          is heard in a grace, or
                                                                        at the next question
    TablePresence         yes                  stays listed, is         is listed
                                               waited for once
    WindowPresence        no                   is not known             is heard
    ====================  ===================  =======================  =======================

To add a transport, write a strategy and choose it in :func:`presence_for`.
"""

from __future__ import annotations

from celery_stats.control.connection import ControlConnection

from .amqp import AmqpPresence
from .base import Presence
from .memory import Memory
from .redis import RedisPresence
from .table import TablePresence, has_shared_table
from .window import WindowPresence

__all__ = ["Memory", "Presence", "presence_for"]


def presence_for(
    connection: ControlConnection, memory: Memory, requested: frozenset[str]
) -> Presence:
    """Return the strategy for a connection's transport."""
    if connection.driver == "redis":
        strategy: type[Presence] = RedisPresence
    elif connection.driver == "amqp":
        strategy = AmqpPresence
    elif connection.is_virtual and has_shared_table(connection):
        strategy = TablePresence
    else:
        strategy = WindowPresence
    return strategy(connection, memory, requested)
