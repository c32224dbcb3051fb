"""Any JSON value in words for people: short, in English, and never an error.

The page and the command have one language. Numbers, times and texts are written alike in every
project, whatever its LANGUAGE_CODE; times are in its TIME_ZONE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, NamedTuple

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, localtime

PAIRS_SHOWN = 60  # in each list of a worker's details
TEXT_LENGTH = 200  # characters in a cell
TITLE_LENGTH = 500  # characters in a tooltip
CELL = 20  # characters that a cell shows at any width of the page
LARGEST = 10**18  # a larger number is taken for none, because arithmetic with it can overflow


class Text(NamedTuple):
    """A value for a cell, and a tooltip where it was cut."""

    shown: str
    title: str = ""


class Cut(NamedTuple):
    """The first items of a list; how many there are; a sentence where that is more."""

    items: Sequence[Any]
    total: Count
    note: str


class Count(NamedTuple):
    """A number as it is (None: none came) and as it is written."""

    value: int | None
    shown: str


def whole(value: Any) -> str:
    """The value's text: strings as they are, anything else as Python writes it."""
    return value if isinstance(value, str) else repr(value)


def shorten(value: Any, length: int = TEXT_LENGTH, fits: int | None = None) -> Text:
    """At most ``length`` characters, with more of them in the tooltip.

    Cells of a table are cut by its width too; ``fits`` is what they are sure to show.
    """
    text = whole(value)
    if len(text) <= length:
        return Text(text, text if fits is not None and len(text) > fits else "")
    title = text if len(text) <= TITLE_LENGTH else f"{text[:TITLE_LENGTH]}…"
    return Text(f"{text[: length - 1]}…", title)


def number(value: Any) -> float | None:
    """The value where it is a number of a bearable size; workers send ``"N/A"`` and null, too."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -LARGEST < value < LARGEST else None


def count(value: Any) -> Count:
    """A whole number with its digits grouped; a dash where there is none."""
    found = number(value)
    if found is None:
        return Count(None, "\N{EN DASH}")
    whole_number = int(found)
    return Count(whole_number, f"{whole_number:,}")


def in_words(seconds: float) -> str:
    """A length of time in its two largest units: ``3 days 4 h``, ``12 min 5 s``, ``0 s``."""
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


def from_seconds(value: Any) -> datetime | None:
    """Seconds since 1970 as an aware time; None where the value is no such number."""
    seconds = number(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None


def from_iso(value: Any) -> datetime | None:
    """An ISO time that says its zone; None for anything else, as there is no zone to guess."""
    try:
        moment = parse_datetime(value)
    except (TypeError, ValueError):
        return None
    return None if moment is None or is_naive(moment) else moment


def written(moment: datetime | None) -> str:
    """A moment in the project's time zone, or nothing."""
    try:
        return "" if moment is None else localtime(moment).isoformat(" ", "seconds")
    except OverflowError:  # within a day of year 1 or 9999
        return ""


def cut(items: Collection[Any], limit: int) -> Cut:
    """The first ``limit`` items, and a sentence where there are more."""
    total = count(len(items))
    if len(items) <= limit:
        return Cut(list(items), total, "")
    return Cut(list(islice(items, limit)), total, f"Showing {limit:,} of {total.shown}.")


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """``{"writes": {"total": 4}}`` as ``("writes.total", 4)``."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def pairs(value: Any) -> Cut:
    """Any value as (label, text, tooltip)."""
    found = cut(list(flatten(value)), PAIRS_SHOWN)
    return found._replace(
        items=[
            (shorten(name, 80).shown, *shorten(round(v, 3) if isinstance(v, float) else v))
            for name, v in found.items
        ]
    )


def plural(number: int, word: str) -> str:
    """``1 worker``, ``2,000 workers``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
