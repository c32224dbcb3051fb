"""The page's templates get their contexts from here: a report, or an error, as values for people.

A worker may send any JSON value under any key. A value that does not have the expected shape is
shown as it is, cut to a readable length, and never raises an error. The work is done here, and
only for the rows that are shown, so that the templates only print.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from django.utils.timezone import localtime

from celery_stats.control.queues import consumed_queues
from celery_stats.report import Report
from celery_stats.shapes import (
    TASK_LISTS,
    Answers,
    answering,
    as_text,
    errors,
    length_of,
    mapping,
    number,
    replies_of,
    slots,
    unexpected,
    value_at,
)

from .look_up import look_ups
from .messages import notes
from .tasks import TaskList, task_lists
from .text import (
    PAIRS_SHOWN,
    TITLE_LENGTH,
    Count,
    Excerpt,
    Text,
    count,
    duration,
    excerpt,
    pairs,
    shorten,
)

WORKERS_SHOWN = 300
QUEUES_SHOWN = 100
CONSUMERS_NAMED = 10

#: Keys of ``stats`` that have a place of their own on the page.
KNOWN_STATS = frozenset(("broker", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"))

#: The first one that is true of a report is its state. Only the last one is good.
HEADINGS = {
    "none": "No worker answered",
    "missing": "Workers are missing",
    "partial": "Some answers are missing",
    "unreadable": "Some replies cannot be read",
    "unnamed": "Somebody did not answer",
    "backlog": "Messages wait that nobody consumes",
    "idle": "A worker consumes no queue",
    "complete": "Every worker answered",
}
#: The context of ``page.html`` if no snapshot could be taken. The page tries again.
UNAVAILABLE = {"state": "unavailable", "heading": "The workers could not be asked"}

CONSUMES_NOTHING = "It consumes no queue, so that it receives no task. A restart helps."


def page(report: Report, *, json_link: str = "", visitor: str = "") -> dict[str, Any]:
    """Return the context of ``page.html`` for a report.

    Args:
        report: what the workers answered.
        json_link: the address of the same report as JSON; empty if there is none.
        visitor: the name of the user who is logged in; empty for nobody.
    """
    answers, missing, question = report.answers, report.missing, report.question
    names = answering(answers)
    queues = queue_rows(report)
    state = health(report, names, queues)
    tasks = task_lists(report)
    taken_at = localtime(report.taken_at)
    return {
        "state": state,
        "heading": HEADINGS[state],
        "notes": list(notes(report)),
        "narrowed": question.is_narrowed,
        "json_link": json_link,
        "visitor": shorten(visitor).shown,
        "answering": count(len(names)),
        "missing_count": count(len(missing)),
        # The name, the key for the script, the fields not answered, and whether some were.
        "missing": [
            (shorten(name), name[:TITLE_LENGTH], ", ".join(fields), name in names)
            for name, fields in sorted(missing.items())
        ],
        # Whether a name may have to be removed from the list of the broker.
        "is_gone": bool(missing.keys() - set(names))
        and not (report.unreadable or question.workers),
        "taken": {
            "iso": taken_at.isoformat(),
            "clock": f"{taken_at:%H:%M:%S}",
            "shown": f"{taken_at:%Y-%m-%d %H:%M:%S %Z}",
        },
        "elapsed": f"{report.elapsed * 1000:,.{0 if report.elapsed >= 0.01 else 1}f}",
        "totals": totals(answers, tasks),
        "workers": excerpt(names, WORKERS_SHOWN, lambda name: worker_row(name, report)),
        "tasks": tasks,
        "queues": queues,
        "look_ups": look_ups(report),
        "pasted": " ".join(question.look_up or question.task_ids),
    }


def health(report: Report, names: Collection[str], queues: Excerpt) -> str:
    """Return the key of :data:`HEADINGS` for a report.

    Args:
        report: the report.
        names: the workers that answered.
        queues: as :func:`queue_rows` returns them.
    """
    is_true = {
        "none": not names,
        "missing": report.missing.keys() - set(names),
        "partial": report.missing or errors(report.answers),
        "unreadable": report.unreadable,
        "unnamed": report.unnamed,
        "backlog": any(queue.is_orphaned for queue in queues.items),
        "idle": any(consumes_nothing(report, name) for name in report.consumers or ()),
    }
    return next((key for key, value in is_true.items() if value), "complete")


def totals(answers: Answers, tasks: Mapping[str, TaskList]) -> list[tuple[str, str, Count, str]]:
    """Return what is counted over all workers: key, title, number, and the number for scripts."""
    stats = answers.get("stats") or {}
    accepted = [n for n in (processed(reply).value for reply in stats.values()) if n is not None]
    counted = [(key, tasks_of.layout["title"], tasks_of.total) for key, tasks_of in tasks.items()]
    counted.append(("processed", "Processed", count(sum(accepted) if accepted else None)))
    return [(*row, "" if row[2].value is None else str(row[2].value)) for row in counted]


# Queues


class Queue(NamedTuple):
    """A queue as a row. It is orphaned if messages wait in it and nobody consumes it."""

    name: Text
    key: str
    waiting: Count
    consumers: Text
    is_orphaned: bool


def queue_rows(report: Report) -> Excerpt:
    """Return the queues, the longest first, each with the workers that consume it."""
    consumers = consumed_queues(report.consumers or {})
    lengths = dict.fromkeys(consumers) | dict(report.queues or {})

    def row(queue: str) -> Queue:
        workers = consumers.get(queue, [])
        named = ", ".join(workers[:CONSUMERS_NAMED])
        more = len(workers) - CONSUMERS_NAMED
        return Queue(
            name=shorten(queue),
            key=queue[:TITLE_LENGTH],
            waiting=count(lengths[queue]),
            consumers=shorten(f"{named} and {more:,} more" if more > 0 else named, TITLE_LENGTH),
            is_orphaned=bool(lengths[queue]) and report.consumers is not None and not workers,
        )

    by_length = sorted(lengths, key=lambda queue: (-(lengths[queue] or 0), queue))
    return excerpt(by_length, QUEUES_SHOWN, row)


def consumes_nothing(report: Report, worker: str) -> bool:
    """Whether a worker says that it consumes no queue."""
    return (report.consumers or {}).get(worker) in ([], ())


# Workers


class Worker(NamedTuple):
    """One row of the table of workers, and the details that open below it.

    Attributes:
        key: the name, by which the script recognises the row.
        percent: the share of busy slots, 0 to 100.
        counts: the number of tasks in each of the four lists, by field.
        processed: tasks that it has accepted since its start.
        missing: the fields that it did not answer, comma-separated.
        remarks: field and text of each reply that does not have the expected shape; the field is
            empty for other remarks.
        details: titled lists of the other statistics.
    """

    name: Text
    key: str
    pool: Text
    busy: Count
    slots: Count
    percent: int
    counts: Mapping[str, Count]
    prefetch: Count
    processed: Count
    uptime: str
    memory: str
    missing: str
    remarks: Sequence[tuple[str, Text]]
    details: Sequence[tuple[str, Excerpt]]


def worker_row(name: str, report: Report) -> Worker:
    """Return the row of a worker."""
    replies = replies_of(report.answers, name)
    stats = mapping(replies["stats"])
    pool_name = as_text(value_at(stats, "pool", "implementation") or "")
    counts = {field: count(length_of(replies[field])) for field in (*TASK_LISTS, "revoked")}
    busy, room = counts["active"], count(slots(stats))
    uptime = number(stats.get("uptime"))
    # In kilobytes on Linux, where Celery is supported.
    memory = number(value_at(stats, "rusage", "maxrss"))
    return Worker(
        name=shorten(name),
        key=name[:TITLE_LENGTH],
        pool=shorten(pool_name.removeprefix("celery.concurrency.").removesuffix(":TaskPool")),
        busy=busy,
        slots=room,
        percent=percent(busy.value or 0, room.value or 0),
        counts=counts,
        prefetch=count(stats.get("prefetch_count")),
        processed=processed(stats),
        uptime="" if uptime is None else duration(uptime),
        memory="" if memory is None else f"{memory / 1024:,.{0 if memory >= 10240 else 1}f} MB",
        missing=", ".join(report.missing.get(name, ())),
        remarks=remarks(name, report),
        details=details(stats),
    )


def remarks(name: str, report: Report) -> list[tuple[str, Text]]:
    """Return field and text of replies of another shape, such as a reported error."""
    replies = replies_of(report.answers, name)
    wrong = ((field, unexpected(field, reply)) for field, reply in replies.items())
    said = [(field, shorten(text)) for field, text in wrong if text is not None]
    return said + ([("", Text(CONSUMES_NOTHING))] if consumes_nothing(report, name) else [])


def percent(part: int, whole: int) -> int:
    """Return a share for a bar: 0 to 100."""
    return min(100, max(0, round(100 * part / whole))) if whole > 0 else 0


def processed(stats: Any) -> Count:
    """Return how many tasks a worker has accepted since its start."""
    total = mapping(stats).get("total")
    if not isinstance(total, Mapping):
        return count(None)
    return count(sum(number(value) or 0 for value in total.values()))


def details(stats: Mapping[str, Any]) -> list[tuple[str, Excerpt]]:
    """Return titled lists of what ``stats`` holds.

    Everything in ``pool``, ``broker`` and ``rusage`` is shown, so a new key in them needs no code.
    Other keys of ``stats`` without a place of their own come last.
    """
    pool = stats.get("pool")
    processes = {"main": stats["pid"]} if "pid" in stats else {}
    if isinstance(pool, Mapping) and isinstance(pool.get("processes"), list | tuple):
        ids = excerpt(pool["processes"], PAIRS_SHOWN, as_text)
        processes["pool"] = f"{', '.join(ids.items)} {ids.note}".rstrip()
        pool = {key: value for key, value in pool.items() if key != "processes"}
    total = stats.get("total")
    if isinstance(total, Mapping):
        total = dict(sorted(total.items(), key=lambda each: -(number(each[1]) or 0)))
    titled = {
        "Tasks by name": total,
        "Processes": processes or None,
        "Pool": pool,
        "Broker": stats.get("broker"),
        "Resource usage": stats.get("rusage"),
        "Other": {k: v for k, v in stats.items() if k not in KNOWN_STATS} or None,
    }
    return [(title, pairs(value)) for title, value in titled.items() if value is not None]
