"""What one process remembers of the nodes of a broker between questions.

It shortens waits and names the missing. It never counts as an answer: see the rule in
``presence/__init__.py``. All times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from celery_stats.control.limits import MAX_NODES

#: Seconds for which it counts that a worker has lost a reply. One that has lost the plain reply to
#: ``active`` is asked for the safe form first, because it would reset its mailbox each time.
LATELY = 60.0

NEVER = -inf


@dataclass
class Node:
    """One name.

    Attributes:
        heard_at: the time of its last answer.
        is_worker: whether it has answered a worker command. ``celery beat`` answers pings only.
        without_app: whether the last question that it answered, it answered as a worker without
            this app.
        lost_at: when it last lost a reply, so that it reset its mailbox.
        lost_active_at: when it last lost the plain reply to ``active``.
        is_absent: whether it was silent while all others had their chance: everybody whom Redis
            counts had answered a ping, or a whole ``timeout`` had passed. Ends when it is heard.
    """

    heard_at: float = NEVER
    is_worker: bool = False
    without_app: bool = False
    lost_at: float = NEVER
    lost_active_at: float = NEVER
    is_absent: bool = False

    @property
    def is_no_worker(self) -> bool:
        """Whether it has answered pings and no worker command."""
        return self.heard_at > NEVER and not self.is_worker


@dataclass
class Roster:
    """The nodes that were heard or listed.

    Attributes:
        nodes: name to node, for at most :data:`MAX_NODES` names.
        had_whole_window: whether a question has waited for a whole ``timeout``, so that those who
            were there are known (AMQP).
        not_waited_for: how many subscribers, but for named workers, stayed silent for a whole
            ``timeout``, and did not answer any later question; None before a question has waited
            so long (Redis).
        not_waited_for_since: monotonic seconds of that question. Whoever was heard in it, or
            later, is none of them.
        server: the id of the running Redis server; empty where it is not known.
        restarted_at: when another server was found.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    had_whole_window: bool = False
    not_waited_for: int | None = None
    not_waited_for_since: float = NEVER
    server: str = ""
    restarted_at: float = NEVER

    def node(self, name: str) -> Node:
        """Return the node of a name. It is remembered as long as there is room."""
        node = self.nodes.get(name)
        if node is None:
            node = Node()
            if len(self.nodes) < MAX_NODES:
                self.nodes[name] = node
        return node

    def hear(self, name: str, at: float, *, is_worker: bool) -> None:
        """Note that a node has answered."""
        node = self.node(name)
        node.heard_at, node.is_absent = at, False
        node.is_worker = node.is_worker or is_worker

    def note_answers(
        self, worker: str, at: float, *, with_app: bool, has_lost_active: bool, has_lost_any: bool
    ) -> None:
        """Note how a worker has answered a whole question."""
        node = self.node(worker)
        node.without_app = not with_app
        if has_lost_active:
            node.lost_active_at = at
        if has_lost_any:
            node.lost_at = at

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.nodes.pop(name, None)

    def names(self, is_meant: Callable[[Node], bool]) -> set[str]:
        """Return the names of some nodes."""
        # A copy, because the thread of another question may add a node meanwhile.
        return {name for name, node in list(self.nodes.items()) if is_meant(node)}

    def workers(self) -> set[str]:
        return self.names(lambda node: node.is_worker)

    def absent(self) -> set[str]:
        return self.names(lambda node: node.is_absent)

    def lately_lost_reply(self, now: float) -> set[str]:
        """Return the workers that have just lost a reply, and may be without a mailbox."""
        return self.names(lambda node: now - node.lost_at < LATELY)

    def lately_lost_active(self, now: float) -> set[str]:
        """Return the workers that have just lost the plain reply to ``active``."""
        return self.names(lambda node: now - node.lost_active_at < LATELY)
