"""The page's templates get their contexts from here: a report, or an error, as values for people.

A worker may send any JSON value under any key. A value that does not have the expected shape is
shown as it is, cut to a readable length, and never raises an error. The work is done here, and
only for the rows that are shown, so that the templates only print.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from django.utils.timezone import localtime

from celery_stats.report import Report
from celery_stats.shapes import (
    TASK_LISTS,
    Answers,
    answering,
    as_text,
    length_of,
    mapping,
    number,
    replies_of,
    slots_of,
    value_at,
)

from .findings import forgettable, heading, look_into, notes, remarks_at
from .look_up import look_ups
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
#: Characters in the details of all workers. 300 workers with 60 tasks each have a third of it.
DETAILS_LENGTH = 2_000_000

#: Keys of ``stats`` that have a place of their own on the page.
KNOWN_STATS = frozenset(("broker", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"))

#: The context of ``page.html`` if no snapshot could be taken. The page tries again.
UNAVAILABLE = {"state": "unavailable", "heading": "The workers could not be asked"}

#: The details of a worker for which there is no room.
NO_ROOM = [("Details", Excerpt((), Count(None, ""), "Those of the workers above fill the page."))]


def page(report: Report, *, json_link: str = "", visitor: str = "") -> dict[str, Any]:
    """Return the context of ``page.html`` for a report.

    Args:
        report: what the workers answered.
        json_link: the address of the same report as JSON; empty if there is none.
        visitor: the name of the user who is logged in; empty for nobody.
    """
    answers, missing, question = report.answers, report.missing, report.question
    names = answering(answers)
    found = look_into(report)
    state = next(iter(found))
    tasks = task_lists(report)
    taken_at = localtime(report.taken_at)
    return {
        "state": state,
        "heading": heading(state, report),
        "notes": list(notes(report)),
        "narrowed": " and ".join(question.narrowed_by),
        "json_link": json_link,
        "visitor": shorten(visitor).shown,
        "answering": count(len(names)),
        "missing_count": count(len(missing)),
        "missing": missing_rows(missing, names),
        "is_anybody_silent": "missing" in found,
        # Whether a name may have to be removed from the list of the broker.
        "is_anybody_forgettable": bool(forgettable(report)),
        "taken": {
            "iso": taken_at.isoformat(),
            "clock": f"{taken_at:%H:%M:%S}",
            "shown": f"{taken_at:%Y-%m-%d %H:%M:%S %Z}",
        },
        "elapsed": f"{report.elapsed * 1000:,.{0 if report.elapsed >= 0.01 else 1}f}",
        "totals": totals_of(answers, tasks),
        "workers": worker_rows(names, report, found),
        "tasks": tasks,
        "queues": queue_rows(report, found.get("backlog", ())),
        "look_ups": look_ups(report),
        "pasted": " ".join(question.look_up or question.task_ids),
    }


def missing_rows(
    missing: Mapping[str, Sequence[str]], names: Collection[str]
) -> list[tuple[Text, str, str, bool]]:
    """Return name, key for the script, the fields not answered, and whether some were."""
    return [
        (shorten(name), name[:TITLE_LENGTH], ", ".join(fields), name in names)
        for name, fields in sorted(missing.items())
    ]


def totals_of(
    answers: Answers, tasks: Mapping[str, TaskList]
) -> list[tuple[str, str, Count, str]]:
    """Return what is counted over all workers: key, title, number, and the number for scripts."""
    accepted = [accepted_by(stats).value for stats in (answers.get("stats") or {}).values()]
    known = [each for each in accepted if each is not None]
    counted = [(key, each.layout["title"], each.total) for key, each in tasks.items()]
    counted.append(("processed", "Processed", count(sum(known) if known else None)))
    return [(*row, "" if row[2].value is None else str(row[2].value)) for row in counted]


# Queues


class Queue(NamedTuple):
    """A queue as a row.

    It is orphaned if messages wait in it and no worker consumes it. That is not known if only some
    workers were asked.
    """

    name: Text
    key: str
    waiting: Count
    consumers: Text
    is_orphaned: bool


def queue_rows(report: Report, orphaned: Collection[str]) -> Excerpt:
    """Return the queues, the longest first, each with the workers that consume it."""
    consumers = report.consumers_by_queue
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
            is_orphaned=queue in orphaned,
        )

    by_length = sorted(lengths, key=lambda queue: (-(lengths[queue] or 0), queue))
    return excerpt(by_length, QUEUES_SHOWN, row)


# Workers


class Worker(NamedTuple):
    """One row of the table of workers, and the details that open below it.

    Attributes:
        key: the name, by which the script recognises the row.
        percent: the share of busy slots, 0 to 100; None if it is not known.
        counts: the number of tasks in each of the four lists, by field.
        accepted: tasks that it has accepted since its start.
        missing: the fields that it did not answer, comma-separated.
        remarks: field and text of each; the field is empty if it is about no answer.
        details: titled lists of the other statistics.
    """

    name: Text
    key: str
    pool: Text
    busy: Count
    slots: Count
    percent: int | None
    counts: Mapping[str, Count]
    prefetch: Count
    accepted: Count
    uptime: str
    memory: str
    missing: str
    remarks: Sequence[tuple[str, Text]]
    details: Sequence[tuple[str, Excerpt]]


def worker_rows(names: Collection[str], report: Report, found: dict[str, Any]) -> Excerpt:
    """Return the rows of workers, with details as long as there is room for them."""
    room = DETAILS_LENGTH

    def row(name: str) -> Worker:
        nonlocal room
        worker = worker_row(name, report, found, with_details=room > 0)
        for _title, listed in worker.details:
            room -= sum(len(text) for texts in listed.items for text in texts)
        return worker

    return excerpt(names, WORKERS_SHOWN, row)


def worker_row(name: str, report: Report, found: dict[str, Any], *, with_details: bool) -> Worker:
    """Return the row of a worker. ``found`` is what :func:`look_into` returns."""
    replies = replies_of(report.answers, name)
    stats = mapping(replies["stats"])
    pool_name = as_text(value_at(stats, "pool", "implementation") or "")
    counts = {field: count(length_of(replies[field])) for field in (*TASK_LISTS, "revoked")}
    busy, slots = counts["active"], count(slots_of(stats))
    uptime = number(stats.get("uptime"))
    # In kilobytes on Linux, where Celery is supported.
    memory = number(value_at(stats, "rusage", "maxrss"))
    return Worker(
        name=shorten(name),
        key=name[:TITLE_LENGTH],
        pool=shorten(pool_name.removeprefix("celery.concurrency.").removesuffix(":TaskPool")),
        busy=busy,
        slots=slots,
        percent=percent(busy.value, slots.value),
        counts=counts,
        prefetch=count(stats.get("prefetch_count")),
        accepted=accepted_by(stats),
        uptime="" if uptime is None else duration(uptime),
        memory="" if memory is None else f"{memory / 1024:,.{0 if memory >= 10240 else 1}f} MB",
        missing=", ".join(report.missing.get(name, ())),
        remarks=[(field, shorten(text)) for field, text in remarks_at(found, name)],
        details=details(stats) if with_details else NO_ROOM,
    )


def percent(part: int | None, whole: int | None) -> int | None:
    """Return a share for a bar: 0 to 100; None if a number is not known."""
    if part is None or whole is None:
        return None
    return min(100, max(0, round(100 * part / whole))) if whole > 0 else 0


def accepted_by(stats: Any) -> Count:
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
