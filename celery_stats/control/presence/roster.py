"""What one process remembers of the nodes of a broker between questions.

It shortens waits and names the missing. It never counts as an answer: see the rule in
``presence/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from celery_stats.control.limits import MAX_WORKERS

#: Seconds for which a worker that has lost the plain reply to ``active`` is asked for the safe
#: form first. The plain form would make it reset its mailbox each time.
SAFE_FIRST = 60.0


@dataclass
class Node:
    """One name.

    Attributes:
        heard_at: monotonic seconds of its last answer; None before the first one.
        is_worker: whether it has answered a worker command. ``celery beat`` answers pings only.
        without_app: whether it answered as a worker without this app.
        lost_at: when it last lost a reply, so that it reset its mailbox; None for never.
        lost_active_at: when it last lost the plain reply to ``active``; None for never.
        is_absent: whether it was silent while all others had their chance: everybody whom Redis
            counts had answered a ping, or a whole ``timeout`` had passed. Ends when it is heard.
    """

    heard_at: float | None = None
    is_worker: bool = False
    without_app: bool = False
    lost_at: float | None = None
    lost_active_at: float | None = None
    is_absent: bool = False


@dataclass
class Roster:
    """The nodes that were heard or listed.

    Attributes:
        nodes: name to node, for at most :data:`MAX_WORKERS` names.
        silent: how many connections without a name stayed silent for a whole ``timeout``, and
            did not answer any later question; None before a question has waited so long.
        silent_since: monotonic seconds of that question. Whoever was heard in it, or later, is
            none of them.
        server: the id of the running Redis server; empty where it is not known.
        restarted_at: monotonic seconds when another server was found; None for never.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    silent: int | None = None
    silent_since: float = 0.0
    server: str = ""
    restarted_at: float | None = None

    def node(self, name: str) -> Node:
        """Return the node of a name. It is remembered as long as there is room."""
        node = self.nodes.get(name)
        if node is None:
            node = Node()
            if len(self.nodes) < MAX_WORKERS:
                self.nodes[name] = node
        return node

    def hear(self, name: str, at: float, *, is_worker: bool) -> Node:
        """Note that a node has answered; return it."""
        node = self.node(name)
        node.heard_at, node.is_absent = at, False
        node.is_worker = node.is_worker or is_worker
        return node

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.nodes.pop(name, None)

    def workers(self) -> set[str]:
        """Return the names that have answered a worker command."""
        return {name for name, node in self.nodes.items() if node.is_worker}

    def no_workers(self) -> set[str]:
        """Return the names that have answered pings and no worker command."""
        return {
            name
            for name, node in self.nodes.items()
            if node.heard_at is not None and not node.is_worker
        }

    def losers(self, now: float) -> set[str]:
        """Return the workers that have just lost a reply, and may be without a mailbox."""
        return {
            name
            for name, node in self.nodes.items()
            if node.lost_at is not None and now - node.lost_at < SAFE_FIRST
        }

    def absent(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node.is_absent}

    def without_app(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node.without_app}

    def safe_first(self, now: float) -> set[str]:
        """Return the workers that have just lost the plain reply to ``active``."""
        return {
            name
            for name, node in self.nodes.items()
            if node.lost_active_at is not None and now - node.lost_active_at < SAFE_FIRST
        }
