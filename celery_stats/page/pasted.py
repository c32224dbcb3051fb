"""The ids of tasks in a text that somebody pasted, and those that begin with it."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from celery_stats.control.question import Question
from celery_stats.query import CONTROL, MAX_LENGTH, make_question

#: What stands around an id that is copied from a text, such as quotes.
_AROUND = "\"'`()[]{}<>.…:“”„«»\u2018\u2019\u2039\u203a"
_CONTROL = re.compile(f"[{CONTROL}]")

#: Characters of the shortest beginning of an id that is looked for.
SHORTEST_BEGINNING = 8


def pasted_question(values: Mapping[str, Sequence[str]]) -> Question:
    """Return what a person asks, who may paste task ids with anything around them.

    Args:
        values: those of every parameter.

    Raises:
        WrongQuestion: a value is not accepted.
    """
    pasted = tuple(values["task_id"])
    question = make_question({**values, "task_id": task_ids(pasted) or pasted})
    return replace(question, queues=not values["field"], look_up=pasted)


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


def beginning_with(
    ids: Sequence[tuple[str, ...]], text: str, at_most: int
) -> tuple[int, list[str]]:
    """Return how many ids begin with a text, in any case, and the first of them.

    Args:
        ids: each in lower case and as it is, sorted.
        text: the beginning. One that is too short fits nothing.
        at_most: how many are returned.
    """
    if len(text) < SHORTEST_BEGINNING:
        return 0, []
    start = bisect_left(ids, (text.lower(),))
    stop = bisect_left(ids, (text.lower() + chr(sys.maxunicode),), start)
    return stop - start, [task_id for _, task_id in ids[start : min(stop, start + at_most)]]
