"""What the page shows: an answer turned into the context of ``celery_stats/page.html``.

A worker may send any JSON value under any key. Whatever is not of the expected shape is shown as
it came, cut to a readable length; nothing here raises on it. What costs time is done here, and
only for the rows that are shown, so that the template is a plain print-out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from django.utils.timezone import localtime

from .report import Report
from .task_rows import ID_LENGTH, Answer, TaskList, look_ups, task_lists
from .words import (
    CELL,
    PAIRS_SHOWN,
    TITLE_LENGTH,
    Count,
    Cut,
    Text,
    count,
    cut,
    in_words,
    number,
    pairs,
    shorten,
    whole,
)

WORKERS_SHOWN = 300
QUEUES_SHOWN = 100

KNOWN_STATS = frozenset(("broker", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"))


@dataclass(frozen=True)
class Worker:
    """One row of the workers' table, and what opens under it."""

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
    owed: str
    remarks: Sequence[tuple[str, Text]]
    totals: Cut
    details: Sequence[tuple[str, Cut]]


def worker_row(name: str, answer: Answer, owed: Sequence[str]) -> Worker:
    """One worker, from its reply under each of the keys."""
    replies = {key: (answer[key] or {}).get(name) for key in answer}
    raw = replies.get("stats")
    stats: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    pool = stats.get("pool")
    pool_info: Mapping[str, Any] = pool if isinstance(pool, Mapping) else {}
    rusage = stats.get("rusage")
    peak = number(rusage.get("maxrss")) if isinstance(rusage, Mapping) else None
    uptime = number(stats.get("uptime"))
    counts = {
        key: count(len(reply) if isinstance(reply, list | tuple) else None)
        for key in ("active", "reserved", "scheduled", "revoked")
        for reply in [replies.get(key)]
    }
    busy, slots = counts["active"], count(pool_info.get("max-concurrency"))
    return Worker(
        name=shorten(name, fits=CELL),
        key=name[:TITLE_LENGTH],
        pool=shorten(pool_name(pool_info.get("implementation", "")), fits=CELL),
        busy=busy,
        slots=slots,
        percent=percent(busy.value or 0, slots.value or 0),
        counts=counts,
        prefetch=count(stats.get("prefetch_count")),
        processed=processed(stats),
        uptime="" if uptime is None else in_words(uptime),
        memory="" if peak is None else megabytes(peak),
        owed=", ".join(owed),
        remarks=list(remarks(replies)),
        totals=totals_by_task(stats.get("total")),
        details=list(details(stats)),
    )


def pool_name(implementation: Any) -> str:
    """``prefork`` for ``celery.concurrency.prefork:TaskPool``; others as they are."""
    text = whole(implementation)
    return text.removeprefix("celery.concurrency.").removesuffix(":TaskPool")


def percent(part: int, all_of_it: int) -> int:
    """A share for a bar: 0 to 100."""
    return min(100, max(0, round(100 * part / all_of_it))) if all_of_it > 0 else 0


def megabytes(kilobytes: float) -> str:
    """``maxrss`` in words; it is in kilobytes on Linux, where Celery is supported."""
    return f"{kilobytes / 1024:,.{0 if kilobytes >= 10240 else 1}f} MB"


def processed(stats: Any) -> Count:
    """Tasks that a worker has accepted since its start."""
    total = stats.get("total") if isinstance(stats, Mapping) else None
    if not isinstance(total, Mapping):
        return count(None)
    return count(sum(number(value) or 0 for value in total.values()))


def totals_by_task(total: Any) -> Cut:
    """Task name, number and a bar's length, the most frequent first."""
    if not isinstance(total, Mapping):
        return cut((), PAIRS_SHOWN)
    numbers = sorted(((number(n) or 0, str(name)) for name, n in total.items()), reverse=True)
    most = int(numbers[0][0]) if numbers else 0
    found = cut(numbers, PAIRS_SHOWN)
    return found._replace(
        items=[(shorten(name), count(n), percent(int(n), most)) for n, name in found.items]
    )


def details(stats: Mapping[str, Any]) -> Iterator[tuple[str, Cut]]:
    """Titled lists of what ``stats`` holds; last, every key that has no place of its own."""
    pool = stats.get("pool")
    processes = {"main": stats["pid"]} if "pid" in stats else {}
    if isinstance(pool, Mapping) and isinstance(pool.get("processes"), list | tuple):
        ids = cut(pool["processes"], PAIRS_SHOWN)
        processes["pool"] = f"{', '.join(map(whole, ids.items))} {ids.note}".rstrip()
        pool = {key: value for key, value in pool.items() if key != "processes"}
    if processes:
        yield "Processes", pairs(processes)
    for title, value in (
        ("Pool", pool),
        ("Broker", stats.get("broker")),
        ("Resource usage", stats.get("rusage")),
    ):
        if value is not None:
            yield title, pairs(value)
    other = {key: value for key, value in stats.items() if key not in KNOWN_STATS}
    if other:
        yield "Other", pairs(other)


def remarks(replies: Mapping[str, Any]) -> Iterator[tuple[str, Text]]:
    """Replies that are not of their key's shape, an error that the worker reports above all."""
    for key, reply in replies.items():
        expected = Mapping if key in ("stats", "query_task") else (list, tuple)
        error = isinstance(reply, Mapping) and set(reply) == {"error"} and reply["error"]
        if error and not isinstance(error, list | tuple):
            yield key, shorten(error)
        elif reply is not None and not isinstance(reply, expected):
            yield key, shorten(reply)


def queue_rows(queues: Mapping[str, int] | None) -> Cut:
    """Name, and the messages that wait, of each queue; the longest first."""
    by_length = sorted((queues or {}).items(), key=lambda queue: (-queue[1], queue[0]))
    found = cut(by_length, QUEUES_SHOWN)
    return found._replace(items=[(shorten(name), count(n)) for name, n in found.items])


HEADINGS = {
    "complete": "Every worker answered",
    "missing": "Workers are missing",
    "partial": "Some answers are missing",
    "none": "No worker answered",
}


def page(report: Report, task_ids: Sequence[str]) -> dict[str, Any]:
    """The context for a report.

    Args:
        report: what the workers answered.
        task_ids: the task ids that were asked for.
    """
    answer, missing = report.answers, report.missing
    names = sorted({*chain.from_iterable(replies or () for replies in answer.values())})
    absent = missing.keys() - set(names)
    workers = cut(names, WORKERS_SHOWN)
    rows = [worker_row(name, answer, missing.get(name, ())) for name in workers.items]
    if not names:
        state = "none"
    elif missing:
        state = "missing" if absent else "partial"
    else:
        state = "complete"
    tasks = task_lists(answer, report.taken_at)
    local = localtime(report.taken_at)
    return {
        "state": state,
        "heading": HEADINGS[state],
        "answering": count(len(names)),
        "missing_count": count(len(missing)),
        "missing": [
            (shorten(name), name[:TITLE_LENGTH], ", ".join(owed), name in names)
            for name, owed in sorted(missing.items())
        ],
        "taken": {
            "iso": local.isoformat(),
            "clock": f"{local:%H:%M:%S}",
            "shown": f"{local:%Y-%m-%d %H:%M:%S %Z}",
        },
        "elapsed": f"{report.elapsed * 1000:,.{0 if report.elapsed >= 0.01 else 1}f}",
        "totals": list(totals(answer, tasks)),
        "workers": workers._replace(items=rows),
        "tasks": tasks,
        "queues": queue_rows(report.queues),
        "look_ups": look_ups(task_ids, answer),
        "task_id": task_ids[0] if task_ids else "",
        "id_length": ID_LENGTH,
    }


def totals(answer: Answer, tasks: Mapping[str, TaskList]) -> Iterator[tuple[str, str, Count, str]]:
    """Key, title, number and the number for machines of what is counted over all workers."""
    replies = answer.get("stats")
    done = [processed(reply).value or 0 for reply in (replies or {}).values()]
    counted = {key: (found.title, found.total) for key, found in tasks.items()}
    counted["processed"] = ("Processed", count(None if replies is None else sum(done)))
    for key, (title, total) in counted.items():
        yield key, title, total, "" if total.value is None else str(total.value)


def unavailable() -> dict[str, Any]:
    """The context where no snapshot could be taken; the page tries again."""
    return {"state": "unavailable", "heading": "The broker is unavailable"}


def refusal(data: Any, status: int, visitor: str) -> dict[str, Any]:
    """The context of ``message.html`` for a request that is answered with an error.

    Args:
        data: The error as REST framework describes it: ``{"<parameter>": ["…"]}`` for a wrong
            query, else ``{"detail": "…"}``. Only the former is shown: the latter is in the
            language of the project.
        status: The HTTP status.
        visitor: The name of the user who is logged in to the project; empty for nobody.
    """
    who = f"You are logged in as {shorten(visitor).shown}." if visitor else ""
    headings = {
        400: "The address asks for something that this page does not know",
        401: "Your session is not accepted here",
        403: "You may not see this page",
        429: "Too many requests",
    }
    texts = {
        401: [who, "This project asks for other credentials, such as a token."],
        403: [who, "Your account lacks the permission. Whoever runs this site can grant it."],
        429: ["Wait a moment, then load the page again."],
    }
    messages = [("", text) for text in texts.get(status, []) if text]
    if status == 400:
        messages = [
            (shorten(name).shown, shorten(message).shown)
            for name, value in (data if isinstance(data, Mapping) else {"": data}).items()
            for message in (value if isinstance(value, list | tuple) else [value])
        ]
    return {
        "state": "refused",
        "heading": headings.get(status, "The page cannot be shown"),
        "messages": messages,
        "link": "Show everything" if status == 400 else "",
    }


def about(data: Mapping[str, Any]) -> dict[str, Any]:
    """The context of ``message.html`` for the answer to OPTIONS."""
    named = {"Answers with": data.get("renders"), "Reads": data.get("parses")}
    return {
        "state": "about",
        "heading": shorten(data.get("name", "")).shown,
        "messages": [
            ("", shorten(data.get("description", ""), TITLE_LENGTH).shown),
            *((name, ", ".join(kinds)) for name, kinds in named.items() if kinds),
        ],
        "link": "Open the page",
    }
