"""A report as text for a terminal: what the page shows first, in lines that fit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any
from unicodedata import combining, east_asian_width

from celery_stats.control.question import Question
from celery_stats.formatting import Excerpt, plural
from celery_stats.report import Report

#: A line and its role in ``django.core.management.color``; "" is plain.
Line = tuple[str, str]

TITLE, GOOD, WARNING, ERROR = "MIGRATE_LABEL", "SUCCESS", "WARNING", "ERROR"
GAP = "  "
NOTHING = "\N{EN DASH}"


def printable(text: str) -> str:
    """The text with escapes for what a terminal obeys or hides: names come from anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cells(text: str) -> int:
    """How many columns of a terminal a text takes up."""
    return sum(2 if east_asian_width(c) in "WF" else not combining(c) for c in text)


def cut(text: str, width: int) -> str:
    """As much of a text as fits ``width`` columns."""
    if cells(text) <= width:
        return text
    while text and cells(text) >= width:
        text = text[:-1]
    return f"{text}…"


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        title: what stands above it.
        texts: one for each row.
        short: a title for where room is scarce.
        right: whether it stands to the right, as numbers do.
    """

    title: str
    texts: Sequence[str]
    short: str = ""
    right: bool = False


def table(columns: Sequence[Column], width: int, indent: str = "") -> Iterator[list[str]]:
    """The lines of the titles, then those of each row; cut only where one text is too long.

    Where the columns do not fit side by side, the first gets lines of its own, and so on.
    """
    room = width - len(indent)
    for titles in ([c.title for c in columns], [c.short or c.title for c in columns]):
        texts = [[title, *column.texts] for title, column in zip(titles, columns, strict=True)]
        widths = [max(map(cells, column)) for column in texts]
        if sum(widths) + len(GAP) * (len(widths) - 1) <= room:
            for row in zip(*texts, strict=True):
                yield [indent + _side_by_side(columns, row, widths)]
            return
    rest = table(columns[1:], width, GAP) if columns[1:] else repeat([])
    for text, row_lines in zip(texts[0], rest, strict=False):
        yield [indent + cut(text, room), *row_lines]


def _side_by_side(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, text, width in zip(columns, row, widths, strict=True):
        blank = " " * (width - cells(text))
        padded.append(blank + text if column.right else text + blank)
    return GAP.join(padded).rstrip()


def lines(report: Report, question: Question, width: int) -> Iterator[Line]:
    """What people want to know; the silent workers last, next to the prompt."""
    # Imported here: what --json prints has no use for it.
    from celery_stats.page import page

    context = page(report, question.task_ids)
    yield from _summary(context, width)
    yield from _workers(context, report, width)
    yield from _running(context, width)
    yield from _queues(context["queues"], width)
    yield from _look_ups(context, width)
    if report.missing:
        yield "", ""
        yield from silent(report, question, width)


def _summary(context: Mapping[str, Any], width: int) -> Iterator[Line]:
    answering = context["answering"]
    words, role = "No worker answered.", ERROR
    if answering.value:
        words = f"{plural(answering.value, 'worker')} answered in {context['elapsed']} ms."
        role = WARNING if context["missing"] else GOOD
    yield from _wrapped(words, role, width)


def _workers(context: Mapping[str, Any], report: Report, width: int) -> Iterator[Line]:
    workers = context["workers"]
    rows = workers.items

    def counts(field: str, title: str, short: str) -> tuple[str, Column]:
        texts = [row.counts[field].shown for row in rows]
        return field, Column(title, texts, short, right=True)

    slots = [row.slots.shown for row in rows]
    processed = [row.processed.shown for row in rows]
    by_field = (
        ("stats", Column("Pool", [printable(row.pool.shown) for row in rows])),
        ("stats", Column("Concurrency", slots, "Conc", right=True)),
        counts("active", "Active", "Act"),
        counts("reserved", "Reserved", "Res"),
        counts("scheduled", "Scheduled", "Sch"),
        counts("revoked", "Revoked", "Rev"),
        ("stats", Column("Processed", processed, "Done", right=True)),
        ("stats", Column("Uptime", [row.uptime or NOTHING for row in rows])),
    )
    columns = [
        Column("Worker", [printable(row.name.shown) for row in rows]),
        *(column for field, column in by_field if report.answers[field] is not None),
    ]
    roles = [WARNING if row.missing else "" for row in rows]
    yield from _section(columns, roles, workers.note, width)
    for row in rows:
        for field, remark in row.remarks:
            yield from _wrapped(f"{row.name.shown}: {field}: {remark.shown}", WARNING, width)


def _running(context: Mapping[str, Any], width: int) -> Iterator[Line]:
    tasks = context["tasks"]["active"]
    columns = (
        Column("Running task", [printable(task.name.shown) for task in tasks.items]),
        Column("Id", [printable(task.whole_id or task.id.shown) for task in tasks.items]),
        Column("For", [task.when or NOTHING for task in tasks.items]),
        Column("Worker", [printable(task.workers.shown) for task in tasks.items]),
    )
    yield from _section(columns, [""] * len(tasks.items), tasks.note, width)


def _queues(queues: Excerpt, width: int) -> Iterator[Line]:
    columns = (
        Column("Queue", [printable(name.shown) for name, _length in queues.items]),
        Column("Waiting", [length.shown for _name, length in queues.items], right=True),
    )
    yield from _section(columns, [""] * len(queues.items), queues.note, width)


def _look_ups(context: Mapping[str, Any], width: int) -> Iterator[Line]:
    rows: list[tuple[str, str, str]] = []
    for look_up in context["look_ups"]:
        rows += [
            (look_up.id.shown, found.state.shown, found.worker.shown) for found in look_up.found
        ] or [(look_up.id.shown, "unknown", NOTHING)]
    columns = [
        Column(title, [printable(row[at]) for row in rows])
        for at, title in enumerate(("Looked up", "State", "Worker"))
    ]
    yield from _section(columns, [""] * len(rows), "", width)


def silent(report: Report, question: Question, width: int) -> Iterator[Line]:
    """Who did not answer what."""
    for name, owed in report.missing.items():
        what = "anything" if owed == question.fields else ", ".join(owed)
        yield from _wrapped(f"{name} did not answer {what}.", WARNING, width)


def _section(
    columns: Sequence[Column], roles: Sequence[str], note: str, width: int
) -> Iterator[Line]:
    """A table below an empty line, each row in its role; nothing where it has no rows."""
    if not roles:
        return
    yield "", ""
    for role, row in zip((TITLE, *roles), table(columns, width), strict=True):
        for line in row:
            yield line, role
    if note:
        yield from _wrapped(note, "", width)


def _wrapped(text: str, role: str, width: int) -> Iterator[Line]:
    text = printable(text)
    widest = max(1, *map(cells, text))  # textwrap counts characters
    for line in textwrap.wrap(text, width // widest, subsequent_indent=GAP):
        yield line, role
