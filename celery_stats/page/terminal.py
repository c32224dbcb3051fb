"""A report as lines for a terminal, and a screen that shows lines in place of earlier ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any, TypeAlias

from celery_stats.report import Report
from celery_stats.shapes import FIELDS

from .findings import notes
from .text import Count, Text, plural

#: A line and its role in ``django.core.management.color``; the role is empty for plain text.
Line: TypeAlias = tuple[str, str]
Cell: TypeAlias = Text | Count | str

TITLE, GOOD, WARNING, ERROR = "MIGRATE_LABEL", "SUCCESS", "WARNING", "ERROR"
#: Title, fields that it is made of, and cell of each column of the table of workers.
COLUMNS: Sequence[tuple[str, set[str], Callable[[Any], Cell]]] = (
    ("Worker", set(FIELDS), lambda worker: worker.name),
    ("Busy", {"active", "stats"}, lambda worker: f"{worker.busy.shown} of {worker.slots.shown}"),
    ("Reserved", {"reserved"}, lambda worker: worker.counts["reserved"]),
    ("Scheduled", {"scheduled"}, lambda worker: worker.counts["scheduled"]),
    ("Processed", {"stats"}, lambda worker: worker.accepted),
    ("Uptime", {"stats"}, lambda worker: worker.uptime or NOTHING),
    ("Revoked", {"revoked"}, lambda worker: worker.counts["revoked"]),
    ("Pool", {"stats"}, lambda worker: worker.pool),
)
GAP = "  "
NOTHING = "\N{EN DASH}"


def printable(text: str) -> str:
    """Return the text with escapes for the characters that a terminal obeys or does not show.

    They are dangerous, because anybody who may send a task chooses its name.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Return how many columns of a terminal a printable text takes up."""
    if text.replace(NOTHING, "-").isascii():
        return len(text)
    # Imported here, because it takes 30 ms, and a probe with plain names does not need it.
    from wcwidth import wcswidth

    return int(wcswidth(text))


def lines(report: Report) -> Iterator[Line]:
    """Yield what the page shows, shortened. A line may be wider than the terminal."""
    # Imported here, because --json does not need the page.
    from .fleet import page

    context = page(report)
    answering, elapsed = context["answering"].value, context["elapsed"]
    clock = context["taken"]["clock"]
    if answering:
        role = GOOD if context["state"] == "complete" else WARNING
        yield f"{plural(answering, 'worker')} answered in {elapsed} ms at {clock}.", role
    else:
        yield f"{context['heading']} at {clock}.", ERROR
    yield from _unanswered(report)
    for queue in context["queues"].items:
        if queue.is_orphaned:
            waiting = plural(queue.waiting.value, "message")
            text = f"No worker that answered consumes {queue.name.shown}, which holds {waiting}."
            yield printable(text), WARNING
    yield from _workers(context, report)
    running, queues = context["tasks"]["active"], context["queues"]
    yield from _table(
        ("Running for", "Task", "Worker", "Id"),
        [
            (task.when or NOTHING, task.name, task.worker, task.whole_id or task.id)
            for task in running.items
        ],
        note=running.note,
    )
    yield from _table(
        ("Queue", "Waiting", "Consumed by"),
        [(row.name, row.waiting, row.consumers.shown or NOTHING) for row in queues.items],
        roles=[WARNING if row.is_orphaned else "" for row in queues.items],
        note=queues.note,
    )
    yield from _looked_up(context)


def _unanswered(report: Report) -> Iterator[Line]:
    """Yield a line for each worker that did not answer everything, and for who has no name."""
    for name, fields in report.missing.items():
        what = "anything" if fields == report.question.fields else ", ".join(fields)
        yield printable(f"{name} did not answer {what}."), WARNING
    for note in notes(report):
        yield note, WARNING


def _workers(context: Mapping[str, Any], report: Report) -> Iterator[Line]:
    """Yield the table of workers, without the columns that were not answered.

    There is no table of the names alone, as after a question for ``query_task`` only.
    """
    workers = context["workers"].items
    asked = {field for field, replies in report.answers.items() if replies is not None}
    columns = [(title, cell) for title, fields, cell in COLUMNS if asked & fields]
    yield from _table(
        [title for title, _cell in columns],
        [[cell(worker) for _title, cell in columns] for worker in workers if columns[1:]],
        roles=[WARNING if worker.missing else "" for worker in workers],
        note=context["workers"].note,
    )
    for worker in workers:
        for field, remark in worker.remarks:
            what = f"{field}: " if field else ""
            yield printable(f"{worker.name.shown}: {what}{remark.shown}"), WARNING


def _looked_up(context: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what is known of each task: its id, and below it a line for each sentence."""
    for look_up in context["look_ups"]:
        yield "", ""
        yield printable(look_up.id.shown), TITLE
        if look_up.task is not None and look_up.task.name.shown:
            yield printable(f"{GAP}{look_up.task.name.shown}({look_up.task.arguments.shown})"), ""
        for sentence in (*look_up.sentences, *(task.whole_id for task in look_up.fits)):
            yield printable(f"{GAP}{sentence}"), ""


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    roles: Sequence[str] | None = None,
    note: str = "",
) -> Iterator[Line]:
    """Yield an empty line, the titles and the rows, in aligned columns; nothing without rows."""
    if not rows:
        return
    texts = [
        [printable(cell if isinstance(cell, str) else cell.shown) for cell in row]
        for row in (titles, *rows)
    ]
    widths = [max(map(width, column)) for column in zip(*texts, strict=True)]
    numeric = [isinstance(cell, Count) for cell in rows[0]]
    yield "", ""
    for role, row in zip((TITLE, *(roles or [""] * len(rows))), texts, strict=True):
        cells = []
        for text, columns, right in zip(row, widths, numeric, strict=True):
            padding = " " * (columns - width(text))
            cells.append(padding + text if right else text + padding)
        yield GAP.join(cells).rstrip(), role
    if note:
        yield note, ""


class Screen:
    """Shows lines on a terminal in place of those before, cut to its size.

    It changes no setting of the terminal, such as the visibility of the cursor, because nothing
    could restore it if the process was killed.
    """

    #: Seconds after which a change of the terminal's size is seen.
    _LOOK = 0.2

    def __init__(self, write: Callable[[str], None], styled: Callable[[Line], str]) -> None:
        """``write`` writes text and flushes it. ``styled`` colours a line as its role says."""
        self._write = write
        self._styled = styled
        self._lines: Sequence[Line] = ()
        self._size = get_terminal_size()
        # What stood there before moves up into the terminal's history.
        write("\n" * self._size.lines)

    def show(self, lines: Sequence[Line]) -> None:
        """Replace what is shown."""
        self._lines = lines
        size = get_terminal_size()
        # After a change of the size, the terminal may have wrapped or joined what it shows.
        clear = "" if size == self._size else "\x1b[2J"
        columns, rows = self._size = size
        # The cursor needs the last row. One column stays free, because a terminal that has just
        # filled the last one would erase it again.
        shown = list(lines[: rows - 1])
        if len(lines) > len(shown):
            shown[-1:] = [(f"{len(lines) - len(shown) + 1} more lines", TITLE)]
        text = "".join(
            f"{self._styled((clip(line, columns - 1), role))}\x1b[K\n" for line, role in shown
        )
        # One write, from the top left corner, with nothing cleared before it is replaced: the
        # terminal never shows an empty screen in between.
        self._write(f"{clear}\x1b[H{text}\x1b[J")

    def wait(self, seconds: float) -> None:
        """Return after some seconds; show the lines again when the terminal's size changes."""
        ends = time.monotonic() + seconds
        while (remaining := ends - time.monotonic()) > 0:
            time.sleep(min(remaining, self._LOOK))
            if get_terminal_size() != self._size:
                self.show(self._lines)


def clip(text: str, columns: int) -> str:
    """Return as much of a text as fits into so many columns of a terminal."""
    # No character that is shown is narrower than one column, but for those that combine.
    start = text[: 4 * columns]
    if start == text and width(text) <= columns:
        return text
    while start and width(start) >= columns:
        start = start[:-1]
    return f"{start}…"
