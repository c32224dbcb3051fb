"""The ids of tasks in a text that somebody pasted, and those that begin with it."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from celery_stats.control.question import Question
from celery_stats.query import MAX_LENGTH, make_question
from celery_stats.shapes import CONTROL

#: What stands around an id that is copied from a text, such as quotes. Celery logs ``name[id]``.
_AROUND = re.compile("[\\s,;\"'`()\\[\\]{}<>…“”„«»\u2018\u2019\u2039\u203a]+")
#: An id as Celery makes it. It is found inside of a word as well, such as a part of a URL.
_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Characters of the shortest beginning of an id that is looked for.
SHORTEST_BEGINNING = 8


def pasted_question(values: Mapping[str, Sequence[str]]) -> Question:
    """Return what a person asks, who may paste task ids with anything around them.

    The limits are for the ids that are pasted. The other ways in which they may be written are
    asked for after them, and so is each whole text, because an id may be any text.

    Args:
        values: those of every parameter.

    Raises:
        WrongQuestion: a value is not accepted.
    """
    pasted = tuple(values["task_id"])
    ways = [way for text in pasted for way in pasted_ids(text)]
    question = make_question({**values, "task_id": [way[0] for way in ways]})
    others = filter(_may_be_id, chain(map(str.strip, pasted), *ways))
    task_ids = tuple(dict.fromkeys([*question.task_ids, *others]))
    return replace(question, task_ids=task_ids, queues=not values["field"], look_up=pasted)


def pasted_ids(text: str) -> list[tuple[str, ...]]:
    """Return the ids in a text that was pasted, each with the ways in which it may be written.

    They are its words. After the word come its lower case and the UUID in it. A text without any
    word is an id itself.
    """
    words = filter(None, (part.strip(".:") for part in _AROUND.split(text)))
    return list(dict.fromkeys(map(_ways, words))) or [(text.strip(),)]


def _ways(word: str) -> tuple[str, ...]:
    lower = word.lower()
    return tuple(dict.fromkeys((word, lower, *_UUID.findall(lower)[:1])))


def _may_be_id(text: str) -> bool:
    return len(text) <= MAX_LENGTH and not CONTROL.search(text)


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
