"""Two answers of the same idle workers, made comparable."""

from __future__ import annotations

from typing import Any


def without_what_changes(reply: Any) -> Any:
    """Return a reply without the values that change by themselves, its lists in order."""
    if isinstance(reply, dict):
        changing = ("clock", "uptime", "rusage", "writes")
        return {k: without_what_changes(v) for k, v in reply.items() if k not in changing}
    if isinstance(reply, (list, tuple)):
        return sorted(map(without_what_changes, reply), key=repr)
    return reply
