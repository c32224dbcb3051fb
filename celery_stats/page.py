"""What the page shows: an answer turned into the context of ``celery_stats/page.html``.

A worker may send any JSON value under any key. Whatever is not of the expected shape is shown as
it came, cut to a readable length; nothing here raises on it. What costs time is done here, and
only for the rows that are shown, so that the template is a plain print-out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain, islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.utils.dateparse import parse_datetime
from django.utils.formats import number_format
from django.utils.timezone import is_naive, localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

Answer = Mapping[str, Mapping[str, Any] | None]

WORKERS_SHOWN = 300
TASKS_SHOWN = 100  # in each of the four lists
QUEUES_SHOWN = 100
PAIRS_SHOWN = 60  # in each list of a worker's details
NAMES_SHOWN = 3  # workers that hold one revoked id
TEXT_LENGTH = 200  # characters in a cell
TITLE_LENGTH = 500  # characters in a tooltip
CELL = 20  # characters that a cell shows at any width of the page
ID_LENGTH = 255  # characters; the API looks no longer id up

KNOWN_STATS = frozenset(("broker", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"))


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
    """A number as it is (None: none came) and as it is written where the reader lives."""

    value: int | None
    shown: str


@dataclass(frozen=True)
class Task:
    """One row of a task list. ``when`` is an age or the time to go, ``moment`` the time itself."""

    id: Text
    whole_id: str
    look_up: str
    name: Text
    arguments: Text
    workers: Text
    queue: Text
    when: str = ""
    moment: str = ""


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


@dataclass(frozen=True)
class Found:
    """What one worker knows of a task that was looked up."""

    worker: Text
    state: Text
    meaning: str
    task: Task
    pairs: Cut


@dataclass(frozen=True)
class LookUp:
    """A task id that was asked for, and the workers that know it."""

    id: Text
    found: Sequence[Found] = field(default=())


# Values


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
    """The value where it is a number; workers send ``"N/A"`` and null in their place."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(value: Any) -> Count:
    """A whole number with its digits grouped; a dash where there is none."""
    found = number(value)
    if found is None:
        return Count(None, "\N{EN DASH}")
    whole_number = int(found)
    # There is nothing to group in most; formatting takes as long as all the rest of a row.
    small = abs(whole_number) < 1000
    shown = str(whole_number) if small else number_format(whole_number, force_grouping=True)
    return Count(whole_number, shown)


def in_words(seconds: float) -> str:
    """A length of time in its two largest units: ``3 days 4 h``, ``12 min 5 s``, ``0 s``."""
    minutes, secs = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [
        (days, ngettext("%(n)s day", "%(n)s days", days)),
        (hours, _("%(n)s h")),
        (minutes, _("%(n)s min")),
        (secs, _("%(n)s s")),
    ]
    while len(units) > 1 and not units[0][0]:
        units.pop(0)
    return " ".join(
        words % {"n": count(amount).shown}
        for at, (amount, words) in enumerate(units[:2])
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
    texts = {"shown": count(limit).shown, "all": total.shown}
    return Cut(list(islice(items, limit)), total, _("Showing %(shown)s of %(all)s.") % texts)


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


# Tasks


def arguments(task: Mapping[str, Any]) -> Text:
    """``2026, 3, retry=True``, as one would write the call; reprs from a retry as they came."""
    args, kwargs = task.get("args"), task.get("kwargs")
    positional = [repr(value) for value in args] if isinstance(args, list | tuple) else None
    named = [f"{k}={v!r}" for k, v in kwargs.items()] if isinstance(kwargs, Mapping) else None
    if positional is None:
        positional = [whole(args)] if args else []
    if named is None:
        named = [whole(kwargs)] if kwargs else []
    return shorten(", ".join(positional + named), fits=CELL)


def look_up_link(task_id: str) -> str:
    """The page's own address that looks a task up."""
    return f"?{urlencode({'task_id': task_id})}#look-up"


def row(worker: str, task: Any, when: str = "", moment: str = "") -> Task:
    """One task, as ``active``, ``reserved`` and ``query_task`` describe it."""
    info: Mapping[str, Any] = task if isinstance(task, Mapping) else {"id": task}
    task_id = whole(info.get("id", ""))
    usable = task_id if len(task_id) <= ID_LENGTH else ""
    delivery = info.get("delivery_info")
    queue = delivery.get("routing_key") if isinstance(delivery, Mapping) else None
    return Task(
        # The first block of a UUID tells tasks apart for a person.
        id=shorten(task_id, 9) if len(task_id) > 12 else Text(task_id),
        whole_id=usable,
        look_up=look_up_link(usable) if usable else "",
        name=shorten(info.get("name", ""), fits=CELL),
        arguments=arguments(info),
        workers=shorten(worker, fits=CELL),
        queue=shorten(queue or "", fits=CELL),
        when=when,
        moment=moment,
    )


def started(task: Any) -> datetime | None:
    """When a worker began a task. ``time_start`` is wall-clock time in every supported version:
    the worker converts its monotonic reading (``Request.on_accepted``)."""
    return from_seconds(task.get("time_start")) if isinstance(task, Mapping) else None


def active_row(worker: str, task: Any, now: datetime) -> Task:
    """A task being executed, with its age; a worker's clock may be ahead of ours."""
    begun = started(task)
    age = "" if begun is None else in_words((now - begun).total_seconds())
    return row(worker, task, age, written(begun))


def scheduled_row(worker: str, entry: Any, now: datetime) -> Task:
    """A task held until its ETA; the task stands under ``request``, beside the ETA."""
    if not isinstance(entry, Mapping) or "request" not in entry:
        return row(worker, entry)
    eta = from_iso(entry.get("eta"))
    if eta is None:
        return row(worker, entry["request"], shorten(entry.get("eta") or "", 40).shown)
    to_go = (eta - now).total_seconds()
    words = _("in %(time)s") % {"time": in_words(to_go)} if to_go >= 1 else _("due now")
    return row(worker, entry["request"], words, written(eta))


def entries(answer: Answer, name: str) -> list[tuple[str, Any]]:
    """Every (worker, item) of one of the four lists; replies that are no list hold none."""
    replies = answer.get(name) or {}
    return [
        (worker, item)
        for worker, reply in replies.items()
        if isinstance(reply, list | tuple)
        for item in reply
    ]


LATEST = datetime.max.replace(tzinfo=timezone.utc)


def task_lists(answer: Answer, now: datetime) -> dict[str, Cut]:
    """The four lists: longest-running first, and soonest due first."""
    active = sorted(entries(answer, "active"), key=lambda entry: started(entry[1]) or LATEST)
    scheduled = sorted(
        entries(answer, "scheduled"),
        key=lambda entry: (
            (isinstance(entry[1], Mapping) and from_iso(entry[1].get("eta"))) or LATEST
        ),
    )
    lists = {
        "active": cut(active, TASKS_SHOWN),
        "reserved": cut(entries(answer, "reserved"), TASKS_SHOWN),
        "scheduled": cut(scheduled, TASKS_SHOWN),
    }
    makers = {"active": active_row, "scheduled": scheduled_row}
    rows: dict[str, Cut] = {
        name: found._replace(
            items=[
                makers[name](worker, item, now) if name in makers else row(worker, item)
                for worker, item in found.items
            ]
        )
        for name, found in lists.items()
    }
    rows["revoked"] = revoked(answer)
    return {
        name: found if answer.get(name) is not None else found._replace(total=count(None))
        for name, found in rows.items()
    }


def revoked(answer: Answer) -> Cut:
    """Revoked ids, each once: a revocation is broadcast, so that every worker holds it."""
    holders: dict[str, list[str]] = {}
    for worker, task_id in entries(answer, "revoked"):
        holders.setdefault(whole(task_id), []).append(worker)
    found = cut(holders, TASKS_SHOWN)
    return found._replace(
        items=[row(listed(holders[task_id]), task_id) for task_id in found.items]
    )


def listed(names: Sequence[str]) -> str:
    """Names in a row; only their number where they are many."""
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return ngettext("%(n)s worker", "%(n)s workers", len(names)) % {"n": count(len(names)).shown}


# Workers


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
    return _("%(n)s MB") % {"n": number_format(kilobytes / 1024, 0 if kilobytes >= 10240 else 1)}


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
    processes = {_("main"): stats["pid"]} if "pid" in stats else {}
    if isinstance(pool, Mapping) and isinstance(pool.get("processes"), list | tuple):
        ids = cut(pool["processes"], PAIRS_SHOWN)
        processes[_("pool")] = f"{', '.join(map(whole, ids.items))} {ids.note}".rstrip()
        pool = {key: value for key, value in pool.items() if key != "processes"}
    if processes:
        yield _("Processes"), pairs(processes)
    for title, value in (
        (_("Pool"), pool),
        (_("Broker"), stats.get("broker")),
        (_("Resource usage"), stats.get("rusage")),
    ):
        if value is not None:
            yield title, pairs(value)
    other = {key: value for key, value in stats.items() if key not in KNOWN_STATS}
    if other:
        yield _("Other"), pairs(other)


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


# Looking a task up


def meaning(state: Any) -> str:
    """What the state that ``query_task`` reports means."""
    words = {
        "active": _("being executed"),
        "reserved": _("received, waiting for a free process"),
        "scheduled": _("held until its ETA"),
        "ready": _("finished, or about to be started"),
    }
    return words.get(state, "") if isinstance(state, str) else ""


def look_up(task_id: str, answer: Answer) -> LookUp:
    """Which workers know a task, and what they say of it."""
    found = []
    for worker, known in (answer.get("query_task") or {}).items():
        if not isinstance(known, Mapping) or task_id not in known:
            continue
        said = known[task_id]
        state, task = said if isinstance(said, list | tuple) and len(said) == 2 else ("?", said)
        found.append(
            Found(
                shorten(worker), shorten(state, 40), meaning(state), row(worker, task), pairs(task)
            )
        )
    return LookUp(shorten(task_id), found)


# The whole


def page(
    answer: Answer,
    missing: Mapping[str, Sequence[str]],
    taken_at: datetime,
    elapsed: float,
    task_ids: Sequence[str],
) -> dict[str, Any]:
    """The context for an answer.

    Args:
        answer: The six keys, each None or worker -> reply.
        missing: Worker -> the fields that it did not answer.
        taken_at: When the snapshot was taken, aware.
        elapsed: What it took, in seconds.
        task_ids: The task ids that were asked for.
    """
    names = sorted({*chain.from_iterable(replies or () for replies in answer.values())})
    absent = [(name, owed) for name, owed in sorted(missing.items()) if name not in set(names)]
    workers = cut(names, WORKERS_SHOWN)
    rows = [worker_row(name, answer, missing.get(name, ())) for name in workers.items]
    if not names:
        state = "none"
    elif missing:
        state = "missing" if absent else "partial"
    else:
        state = "complete"
    tasks = task_lists(answer, taken_at)
    replies = answer.get("stats")
    done = [processed(reply).value or 0 for reply in (replies or {}).values()]
    totals = [
        ("active", _("Active"), tasks["active"].total),
        ("reserved", _("Reserved"), tasks["reserved"].total),
        ("scheduled", _("Scheduled"), tasks["scheduled"].total),
        ("revoked", _("Revoked"), tasks["revoked"].total),
        ("processed", _("Processed"), count(None if replies is None else sum(done))),
    ]
    return {
        "state": state,
        "answering": count(len(names)),
        "missing_count": count(len(missing)),
        "missing": [
            (shorten(name), name[:TITLE_LENGTH], ", ".join(owed), name in names)
            for name, owed in sorted(missing.items())
        ],
        "taken_at": localtime(taken_at),
        "elapsed": number_format(elapsed * 1000, 0 if elapsed >= 0.01 else 1),
        "totals": totals,
        "workers": workers._replace(items=rows),
        "tasks": tasks,
        "look_ups": [look_up(task_id, answer) for task_id in dict.fromkeys(task_ids)],
        "task_id": task_ids[0] if task_ids else "",
        "id_length": ID_LENGTH,
    }


def problem(data: Any, status: int) -> dict[str, Any]:
    """The context for an error, as REST framework describes it: ``{"detail": …}`` for most,
    ``{"<parameter>": ["…"]}`` for a wrong query."""
    headings = {
        400: _("The address asks for something that this page does not know"),
        401: _("You are not logged in"),
        403: _("You may not see this page"),
        429: _("Too many requests"),
        503: _("The broker is unavailable"),
    }
    described = data if isinstance(data, Mapping) else {"detail": data}
    messages = [
        ("" if name == "detail" else shorten(name).shown, shorten(message).shown)
        for name, value in described.items()
        for message in (value if isinstance(value, list | tuple) else [value])
    ]
    return {
        "state": "unavailable" if status == 503 else "refused",
        "heading": headings.get(status, _("The page cannot be shown")),
        "messages": messages,
        "status": status,
    }
