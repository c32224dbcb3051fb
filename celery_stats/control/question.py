"""What is asked, and how long it may take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from celery import Celery

from celery_stats.shapes import FIELDS, number

#: A Celery app, or its dotted path (``"project.celery:app"``).
CeleryApp: TypeAlias = Celery | str

#: The additional argument of a command by which workers with this app are asked for several
#: commands at once. Its value is command to the arguments of that command. The reply of such a
#: worker has the same key, and is called a joint reply. Its value is the JSON text of
#: :class:`Extras` and :data:`REPLIES`.
#: Releases of the app must understand each other, so a change of the meaning needs another name.
ARGUMENT = "celery_stats"
#: Command to reply. A command whose reply does not fit is left out.
REPLIES = "replies"

#: Stands for ``query_task`` without ids: every worker can answer it, and no field needs the reply.
PROBE = ""


@dataclass(frozen=True)
class Extras:
    """What a worker with this app sends beside its replies, under the names of the attributes.

    Each is None if the worker is of a release that does not send it, or sent something else.

    Attributes:
        time: seconds since 1970 by the clock of the worker, when it answered.
    """

    time: float | None = None

    @classmethod
    def read(cls, sent: Mapping[str, Any]) -> Extras:
        """Return what was sent. Workers are not trusted: only what has its shape is taken."""
        return cls(time=number(sent.get("time")))


@dataclass(frozen=True)
class Question:
    """What is asked, and of whom.

    Attributes:
        fields: those of :data:`~celery_stats.shapes.FIELDS` to ask.
        task_ids: the ids for ``query_task``.
        workers: full names of the workers that should answer; empty: all.
        queues: whether the queues are asked for as well: their lengths, and who consumes them,
            which is what the command ``active_queues`` tells.
        look_up: what a person asked to look up, as typed. If there is anything, ``task_ids`` are
            its possible ids, and the result backend and the queues are asked about them as well.
    """

    fields: tuple[str, ...] = FIELDS
    task_ids: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    queues: bool = False
    look_up: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that answer the question."""
        return (*self.fields, "active_queues") if self.queues else self.fields

    def arguments(self, command: str) -> dict[str, Any]:
        """Return the keyword arguments of a command, as ``inspect()`` sends them."""
        if command == "query_task":
            return {"ids": list(self.task_ids)}
        return {"safe": None} if command == "active" else {}

    @property
    def narrowed_by(self) -> tuple[str, ...]:
        """Of which only some are asked for, so that nothing can be said of all of them.

        Those who show an answer read it here, and say nothing false of what was left out.
        """
        narrowed = {"workers": bool(self.workers), "fields": self.fields != FIELDS}
        return tuple(name for name, is_narrowed in narrowed.items() if is_narrowed)

    def joint_argument(self, commands: Collection[str]) -> dict[str, Any]:
        """Return the argument that asks a worker with this app for a joint reply to commands."""
        return {ARGUMENT: {command: self.arguments(command) for command in commands}}


@dataclass(frozen=True)
class Options:
    """What a snapshot depends on besides the question.

    Attributes:
        app: whose workers are asked.
        timeout: seconds of silence after which workers that have not answered are given up.
        deadline: seconds that a snapshot may take in all, connecting included.
    """

    app: CeleryApp
    timeout: float
    deadline: float
