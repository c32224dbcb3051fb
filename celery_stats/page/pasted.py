"""The ids of tasks in a text that somebody pasted."""

from __future__ import annotations

import re
from collections.abc import Collection

from celery_stats.query import CONTROL, MAX_LENGTH

#: What stands around an id that is copied from a text, such as quotes.
_AROUND = "\"'`()[]{}<>.…:“”„«»\u2018\u2019\u2039\u203a"
_CONTROL = re.compile(f"[{CONTROL}]")


def pasted_ids(text: str) -> list[tuple[str, ...]]:
    """Return the ids in a text that was pasted, each with the ways in which it may be written.

    The first is the exact text, because an id may be any text. After it come its parts, without
    quotes and in lower case as well.
    """
    exact = text.strip()
    parts = [part.strip(_AROUND) for part in re.split(r"[\s,;]+", exact)]
    written = [tuple(dict.fromkeys((part, part.lower()))) for part in parts if part]
    if _CONTROL.search(exact) or len(exact) > MAX_LENGTH or (exact,) in written:
        return list(dict.fromkeys(written))
    return list(dict.fromkeys([(exact,), *written]))


def task_ids(texts: Collection[str]) -> list[str]:
    """Return every id that the texts may mean."""
    ways = (way for text in texts if text.strip() for way in pasted_ids(text))
    return list(dict.fromkeys(task_id for way in ways for task_id in way))
