"""Who could still answer a question: one strategy for each kind of transport.

The rule of all strategies: **an answer follows from what came back to this question. What is
remembered may shorten a wait. It never replaces one.** Nothing that is remembered counts as an
answer, and nothing that was silent counts as absent as long as the broker says that somebody is
there. So whoever is alive and answers is heard, and puts right what is remembered.

Words that all strategies use:

    listed      the broker has a mailbox of this name in its binding table
    requested   the workers that a caller named with ``worker``
    suspect     a node that has answered a ping and no command, and may be a worker
    no worker   a node that answers pings and no worker command, such as ``celery beat``
    silent      a node that has answered nothing
    absent      listed, and silent while all others had their chance; see :class:`~.roster.Node`
    gone        a worker whose mailbox does not exist any more (AMQP)

The main question to a strategy is :meth:`~.base.Presence.patience`: how much silence ends the
question? The table in docs/how-it-works.md, "Who is there", says how the strategies differ.

To add a transport, write a strategy and choose it in :func:`presence_for`.
"""

from __future__ import annotations

from celery_stats.control.connection import ControlConnection
from celery_stats.control.replies import Replies

from .amqp import AmqpPresence
from .base import Presence
from .redis import RedisPresence
from .roster import Roster
from .table import TablePresence
from .window import WindowPresence

__all__ = ["Presence", "Roster", "presence_for"]


def presence_for(
    connection: ControlConnection, roster: Roster, requested: frozenset[str], replies: Replies
) -> Presence:
    """Return the strategy for a connection's transport."""
    if connection.driver == "redis":
        strategy: type[Presence] = RedisPresence
    elif connection.driver == "amqp":
        strategy = AmqpPresence
    elif connection.has_shared_table:
        strategy = TablePresence
    else:
        strategy = WindowPresence
    return strategy(connection, roster, requested, replies)
