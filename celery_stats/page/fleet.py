"""The page's templates get their contexts from here: a report, or an error, as values for people.

A worker may send any JSON value under any key. A value that does not have the expected shape is
shown as it is, cut to a readable length, and never raises an error. The work is done here, and
only for the rows that are shown, so that the templates only print.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from django.utils.timezone import localtime

from celery_stats.query import MAX_LENGTH
from celery_stats.report import Report

from .tasks import Answers, TaskList, look_ups, task_lists
from .text import (
    CELL,
    PAIRS_SHOWN,
    TITLE_LENGTH,
    Count,
    Excerpt,
    Text,
    as_text,
    count,
    duration,
    excerpt,
    mapping,
    number,
    pairs,
    shorten,
)

WORKERS_SHOWN = 300
QUEUES_SHOWN = 100

#: Keys of ``stats`` that have a place of their own on the page.
KNOWN_STATS = frozenset(("broker", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"))

HEADINGS = {
    "complete": "Every worker answered",
    "missing": "Workers are missing",
    "partial": "Some answers are missing",
    "none": "No worker answered",
}
#: The context of ``page.html`` if no snapshot could be taken. The page tries again.
UNAVAILABLE = {"state": "unavailable", "heading": "The broker is unavailable"}


def page(report: Report, *, json_link: str = "") -> dict[str, Any]:
    """Return the context of ``page.html`` for a report.

    Args:
        report: what the workers answered.
        json_link: the address of the same report as JSON; empty if there is none.
    """
    answers, missing, task_ids = report.answers, report.missing, report.question.task_ids
    names = sorted({*chain.from_iterable(replies or () for replies in answers.values())})
    state = health(names, missing)
    tasks = task_lists(answers, report.taken_at)
    taken_at = localtime(report.taken_at)
    return {
        "state": state,
        "heading": HEADINGS[state],
        "narrowed": report.question.is_narrowed,
        "json_link": json_link,
        "answering": count(len(names)),
        "missing_count": count(len(missing)),
        # The name, the key for the script, the fields not answered, and whether some were.
        "missing": [
            (shorten(name), name[:TITLE_LENGTH], ", ".join(fields), name in names)
            for name, fields in sorted(missing.items())
        ],
        "taken": {
            "iso": taken_at.isoformat(),
            "clock": f"{taken_at:%H:%M:%S}",
            "shown": f"{taken_at:%Y-%m-%d %H:%M:%S %Z}",
        },
        "elapsed": f"{report.elapsed * 1000:,.{0 if report.elapsed >= 0.01 else 1}f}",
        "totals": totals(answers, tasks),
        "workers": excerpt(
            names, WORKERS_SHOWN, lambda name: worker_row(name, answers, missing.get(name, ()))
        ),
        "tasks": tasks,
        "queues": queue_rows(report.queues or {}),
        "look_ups": look_ups(task_ids, answers),
        "task_id": task_ids[0] if task_ids else "",
        "id_length": MAX_LENGTH,
    }


def health(names: Collection[str], missing: Mapping[str, Sequence[str]]) -> str:
    """Return the key of :data:`HEADINGS` for the workers that answered and those missing."""
    if not names:
        return "none"
    if missing.keys() - set(names):
        return "missing"
    return "partial" if missing else "complete"


def totals(answers: Answers, tasks: Mapping[str, TaskList]) -> list[tuple[str, str, Count, str]]:
    """Return what is counted over all workers: key, title, number, and the number for scripts."""
    stats = answers.get("stats")
    accepted = [processed(reply).value or 0 for reply in (stats or {}).values()]
    counted = [(key, tasks_of.layout["title"], tasks_of.total) for key, tasks_of in tasks.items()]
    counted.append(("processed", "Processed", count(None if stats is None else sum(accepted))))
    return [(*row, "" if row[2].value is None else str(row[2].value)) for row in counted]


def queue_rows(queues: Mapping[str, int]) -> Excerpt:
    """Return the name of each queue and the number of its messages, the longest queue first."""
    by_length = sorted(queues.items(), key=lambda queue: (-queue[1], queue[0]))
    return excerpt(by_length, QUEUES_SHOWN, lambda queue: (shorten(queue[0]), count(queue[1])))


# Workers


class Worker(NamedTuple):
    """One row of the table of workers, and the details that open below it.

    Attributes:
        key: the name, by which the script recognises the row.
        percent: the share of busy slots, 0 to 100.
        counts: the number of tasks in each of the four lists, by field.
        processed: tasks that it has accepted since its start.
        missing: the fields that it did not answer, comma-separated.
        remarks: field and text of each reply that does not have the expected shape.
        totals: rows of task name, number, and length of a bar.
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
    totals: Excerpt
    details: Sequence[tuple[str, Excerpt]]


def worker_row(name: str, answers: Answers, missing: Sequence[str]) -> Worker:
    """Return the row of a worker; ``missing`` are the fields that it did not answer."""
    replies = {field: (answers[field] or {}).get(name) for field in answers}
    stats = mapping(replies.get("stats"))
    pool = mapping(stats.get("pool"))
    pool_name = as_text(pool.get("implementation", ""))
    counts = {}
    for field in ("active", "reserved", "scheduled", "revoked"):
        reply = replies.get(field)
        counts[field] = count(len(reply) if isinstance(reply, list | tuple) else None)
    busy, slots = counts["active"], count(pool.get("max-concurrency"))
    uptime = number(stats.get("uptime"))
    # In kilobytes on Linux, where Celery is supported.
    memory = number(mapping(stats.get("rusage")).get("maxrss"))
    return Worker(
        name=shorten(name, fits=CELL),
        key=name[:TITLE_LENGTH],
        pool=shorten(
            pool_name.removeprefix("celery.concurrency.").removesuffix(":TaskPool"), fits=CELL
        ),
        busy=busy,
        slots=slots,
        percent=percent(busy.value or 0, slots.value or 0),
        counts=counts,
        prefetch=count(stats.get("prefetch_count")),
        processed=processed(stats),
        uptime="" if uptime is None else duration(uptime),
        memory="" if memory is None else f"{memory / 1024:,.{0 if memory >= 10240 else 1}f} MB",
        missing=", ".join(missing),
        remarks=list(remarks(replies)),
        totals=totals_by_task(mapping(stats.get("total"))),
        details=details(stats),
    )


def percent(part: int, whole: int) -> int:
    """Return a share for a bar: 0 to 100."""
    return min(100, max(0, round(100 * part / whole))) if whole > 0 else 0


def processed(stats: Any) -> Count:
    """Return how many tasks a worker has accepted since its start."""
    total = mapping(stats).get("total")
    if not isinstance(total, Mapping):
        return count(None)
    return count(sum(number(value) or 0 for value in total.values()))


def totals_by_task(total: Mapping[str, Any]) -> Excerpt:
    """Return rows of task name, number, and length of a bar, the largest number first."""
    numbers = sorted(((number(n) or 0, str(name)) for name, n in total.items()), reverse=True)
    largest = int(numbers[0][0]) if numbers else 0
    return excerpt(
        numbers,
        PAIRS_SHOWN,
        lambda row: (shorten(row[1]), count(row[0]), percent(int(row[0]), largest)),
    )


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
    titled = {
        "Processes": processes or None,
        "Pool": pool,
        "Broker": stats.get("broker"),
        "Resource usage": stats.get("rusage"),
        "Other": {k: v for k, v in stats.items() if k not in KNOWN_STATS} or None,
    }
    return [(title, pairs(value)) for title, value in titled.items() if value is not None]


def remarks(replies: Mapping[str, Any]) -> Iterator[tuple[str, Text]]:
    """Yield the field and the text of replies of another shape, such as a reported error."""
    for field, reply in replies.items():
        expected = Mapping if field in ("stats", "query_task") else (list, tuple)
        error = isinstance(reply, Mapping) and set(reply) == {"error"} and reply["error"]
        if error and not isinstance(error, list | tuple):
            yield field, shorten(error)
        elif reply is not None and not isinstance(reply, expected):
            yield field, shorten(reply)


# Messages


def refusal(data: Any, status: int, visitor: str) -> dict[str, Any]:
    """Return the context of ``message.html`` for a request that is answered with an error.

    Args:
        data: the error as REST framework describes it: ``{"<parameter>": ["…"]}`` for a wrong
            query, and ``{"detail": "…"}`` otherwise. The latter is not shown, because it is in
            the language of the project.
        status: the HTTP status.
        visitor: the name of the user who is logged in to the project; empty for nobody.
    """
    user = f"You are logged in as {shorten(visitor).shown}." if visitor else ""
    heading, *texts = {
        400: ["The address asks for something that this page does not know"],
        401: [
            "Your session is not accepted here",
            user,
            "This project asks for other credentials, such as a token.",
        ],
        403: [
            "You may not see this page",
            user,
            "Your account does not have the permission. An administrator of this site can "
            "grant it.",
        ],
        429: ["Too many requests", "Wait a moment, then load the page again."],
    }.get(status, ["The page cannot be shown"])
    messages = [("", text) for text in texts if text]
    if status == 400:
        messages = [
            (shorten(name).shown, shorten(message).shown)
            for name, value in (data if isinstance(data, Mapping) else {"": data}).items()
            for message in (value if isinstance(value, list | tuple) else [value])
        ]
    return {
        "state": "refused",
        "heading": heading,
        "messages": messages,
        "link": "Show everything" if status == 400 else "",
    }


def about(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context of ``message.html`` for the answer to OPTIONS."""
    kinds_by_name = {"Answers with": data.get("renders"), "Reads": data.get("parses")}
    return {
        "state": "about",
        "heading": shorten(data.get("name", "")).shown,
        "messages": [
            ("", shorten(data.get("description", ""), TITLE_LENGTH).shown),
            *((name, ", ".join(kinds)) for name, kinds in kinds_by_name.items() if kinds),
        ],
        "link": "Open the page",
    }
