"""Formats any JSON value for people: as short English text, and without ever raising an error.

The page and the command are in English only. Numbers, times and texts look the same in every
project, whatever its LANGUAGE_CODE is. Times are in the project's TIME_ZONE.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from django.utils.timezone import localtime

from celery_stats.shapes import as_text, number

PAIRS_SHOWN = 60  # in each list of a worker's details
NAME_LENGTH = 80  # characters in the name of a detail
TEXT_LENGTH = 200  # characters in a cell
TITLE_LENGTH = 500  # characters in a tooltip

#: Classes of characters that are written from right to left, or make others be.
RIGHT_TO_LEFT = frozenset(("R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI"))
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"

T = TypeVar("T")


class Text(NamedTuple):
    """A value as text for a cell, and a tooltip if the text is cut."""

    shown: str
    title: str = ""


class Count(NamedTuple):
    """A whole number, and how it is written. The value is None if there is no number."""

    value: int | None
    shown: str


class Excerpt(NamedTuple):
    """The first items of a list, the length of the list, and a note if items are left out."""

    items: Sequence[Any]
    total: Count
    note: str


def shorten(value: Any, length: int = TEXT_LENGTH) -> Text:
    """Return at most ``length`` characters of any value, and more of them as a tooltip."""
    text = as_text(value)
    if len(text) <= length:
        return Text(text)
    title = text if len(text) <= TITLE_LENGTH else f"{text[:TITLE_LENGTH]}…"
    return Text(f"{text[: length - 1]}…", title)


def isolated(text: str) -> str:
    """Return a text that keeps its direction to itself."""
    if text.isascii() or not any(unicodedata.bidirectional(c) in RIGHT_TO_LEFT for c in text):
        return text
    return f"{FIRST_STRONG_ISOLATE}{text}{POP_ISOLATE}"


def count(value: Any) -> Count:
    """Return a number without its fraction, its digits grouped; a dash if it is no number."""
    found = number(value)
    return Count(None, "\N{EN DASH}") if found is None else Count(int(found), f"{int(found):,}")


def plural(amount: int, noun: str) -> str:
    """Return ``1 worker``, or ``2,000 workers``."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``3 days 4 h``, ``12 min 5 s``, ``0 s``."""
    minutes, secs = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "day"), (hours, "h"), (minutes, "min"), (secs, "s")]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    return " ".join(
        plural(amount, unit) if unit == "day" else f"{amount} {unit}"
        for at, (amount, unit) in enumerate(units[:2])
        if amount or at == 0
    )


def format_time(moment: datetime | None) -> str:
    """Return a time in the project's time zone; empty for None."""
    try:
        return "" if moment is None else localtime(moment).isoformat(" ", "seconds")
    except OverflowError:  # The time is within a day of year 1 or 9999.
        return ""


def time_of_day(moment: datetime, now: datetime, *, seconds: bool = False) -> str:
    """Return a time in the project's time zone, with its date only if that is not today's."""
    try:
        local = localtime(moment)
        date = "" if local.date() == localtime(now).date() else f"{local:%Y-%m-%d} "
    except OverflowError:
        return ""
    return f"{date}{local:%H:%M:%S}" if seconds else f"{date}{local:%H:%M}"


def excerpt(items: Collection[T], limit: int, row: Callable[[T], Any]) -> Excerpt:
    """Return the first items of a list, each as what ``row`` makes of it."""
    total = count(len(items))
    note = f"Showing {limit:,} of {total.shown}." if len(items) > limit else ""
    return Excerpt([row(item) for item in islice(items, limit)], total, note)


def pairs(value: Any) -> Excerpt:
    """Return any value as rows of (name, text, tooltip)."""
    rows, total = [], 0
    for total, (name, inner) in enumerate(_flatten(value), start=1):
        if total <= PAIRS_SHOWN:
            text = shorten(round(inner, 3) if isinstance(inner, float) else inner)
            rows.append((name, text.shown, text.title))
    note = f"Showing {PAIRS_SHOWN:,} of {total:,}." if total > PAIRS_SHOWN else ""
    return Excerpt(rows, count(total), note)


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("writes.total", 4)`` for ``{"writes": {"total": 4}}``.

    Names are cut before they are joined: a long one would be repeated for each of its leaves.
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            name = as_text(key)[:NAME_LENGTH]
            joined = f"{path}.{name}" if path else name
            yield from _flatten(inner, shorten(joined, NAME_LENGTH).shown)
    else:
        yield path, value
