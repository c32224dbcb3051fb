"""Where is this task? A sentence for each fact that is known of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from celery_stats.control.look_through import MAX_BYTES, MAX_MESSAGES, Extent, Place
from celery_stats.control.results import Backend, Result
from celery_stats.report import Report
from celery_stats.shapes import TASK_LISTS, entries, holders, queried, slots_of, task_of
from celery_stats.times import eta_of, running_for, time_before, time_to_go

from .findings import heading
from .pasted import beginning_with, pasted_ids
from .tasks import Task, arguments, name_a_few, task_row
from .text import Excerpt, Text, count, duration, pairs, plural, shorten, time_of_day

#: Characters of the arguments of a task that is looked up. The lists show fewer.
ARGUMENTS_LENGTH = 2000
#: Ids that are named where a beginning fits several, and queues that are named in a sentence.
FITS_SHOWN, QUEUES_NAMED = 10, 5

STATES = {
    "SUCCESS": "it finished",
    "FAILURE": "it failed",
    "RETRY": "it failed, and is to be tried again",
    "STARTED": "a worker has started it, and has not finished it",
    "REVOKED": "it was revoked",
    "RECEIVED": "a worker has received it",
}


class LookUp(NamedTuple):
    """A task that is looked up.

    Attributes:
        id: the id that was found, or else what was looked for.
        key: what was looked for, by which the script recognises it from one answer to the next.
        state: a word for where it is; empty where no worker, backend or queue has it.
        held: such as "running on a@h", for a task that a worker holds.
        sentences: what is known, the most important first.
        task: the task, where a worker described it.
        pairs: everything that the worker said of it.
        fits: the ids that a beginning fits, if it fits several.
    """

    id: Text
    key: str
    state: str
    held: str
    sentences: Sequence[str]
    task: Task | None = None
    pairs: Excerpt | None = None
    fits: Sequence[Task] = ()


class Held(NamedTuple):
    """What a worker says of a task."""

    worker: str
    state: str
    task: Mapping[str, Any]


def look_ups(report: Report) -> list[LookUp]:
    """Return what is known of each task that is looked up."""
    known = _held(report, report.question.task_ids)
    wanted = _wanted(report, known)
    ids = [] if all(wanted.values()) else _ids(report)
    fits = {
        text: beginning_with(ids, text, FITS_SHOWN)
        for text, task_id in wanted.items()
        if not task_id
    }
    alone = {text: first[0] for text, (total, first) in fits.items() if total == 1}
    known |= _held(report, alone.values()) if alone else {}
    shown: dict[str, LookUp] = {}
    for text, task_id in (wanted | alone).items():
        if task_id:
            look_up = _described(report, text, task_id, known.get(task_id, ()))
        elif fits[text][0]:
            look_up = _of_several(text, *fits[text])
        else:
            sentences = [*_nobody(report), *_no_result(report), *_no_place(report)]
            look_up = LookUp(shorten(text), shorten(text).shown, "", "", sentences)
        shown.setdefault(look_up.key, look_up)
    return list(shown.values())


def _wanted(report: Report, known: Collection[str]) -> dict[str, str]:
    """Return each id as it was pasted, with the id that something is known of; empty for none."""
    found = dict.fromkeys([*known, *_traced(report)])
    wanted: dict[str, str] = {}
    for text in report.question.look_up or report.question.task_ids:
        whole = text.strip()
        for way in [(whole,)] if whole in found else pasted_ids(text):
            wanted[way[0]] = next((task_id for task_id in way if task_id in found), "")
    return wanted


def _traced(report: Report) -> list[str]:
    return [*report.traces.results, *report.traces.places] if report.traces else []


def _held(report: Report, wanted: Collection[str]) -> dict[str, list[Held]]:
    """Return what the workers say of each task, by id, from ``query_task`` and their lists.

    The lists are needed because workers older than Celery 5.7 do not answer ``query_task`` for
    a task that they hold until its ETA, and no worker does for a revoked one.
    """
    answers, ids = report.answers, set(wanted)
    held: dict[str, dict[str, Held]] = {}
    for worker, task_id, state, task in queried(answers):
        if task_id in ids:
            held.setdefault(task_id, {})[worker] = Held(worker, state, task)
    for state in TASK_LISTS:
        for worker, entry in entries(answers, state):
            task = task_of(entry)
            named = task.get("id")
            if isinstance(named, str) and named in ids:
                by_worker = held.setdefault(named, {})
                # It has the ETA, which the answer to query_task has not.
                if worker not in by_worker or by_worker[worker].state == state:
                    by_worker[worker] = Held(worker, state, task)
    found = {task_id: list(by_worker.values()) for task_id, by_worker in held.items()}
    for task_id, workers in holders(answers).items():
        if task_id in ids:
            found.setdefault(task_id, []).append(Held(name_a_few(workers), "revoked", {}))
    return found


def _ids(report: Report) -> list[tuple[str, ...]]:
    """Return the ids in the lists, each in lower case and as it is, sorted."""
    held = [
        task_of(entry).get("id")
        for field in TASK_LISTS
        for _, entry in entries(report.answers, field)
    ]
    ids = {i for i in (*held, *holders(report.answers)) if isinstance(i, str)}
    return sorted((task_id.lower(), task_id) for task_id in ids)


# What is known


def _of_several(text: str, total: int, first: Sequence[str]) -> LookUp:
    return LookUp(
        id=shorten(text),
        key=shorten(text).shown,
        state="",
        held="",
        sentences=[f"{plural(total, 'task')} that workers know begin with it."],
        fits=[task_row("", task_id) for task_id in first],
    )


def _described(report: Report, text: str, task_id: str, held: Sequence[Held]) -> LookUp:
    """Return what is known of a task.

    Args:
        report: the report.
        text: the id as it was looked for.
        task_id: the id that something is known of.
        held: what the workers say of it.
    """
    results = report.traces.results if report.traces else {}
    places = report.traces.places if report.traces else {}
    result, place = results.get(task_id), places.get(task_id)
    # A task that a worker holds was delivered to it, so its place in the broker says nothing more.
    in_hand = next((each for each in held if each.state != "revoked"), None)
    sentences = [_where(report, each) for each in held]
    if not held:
        sentences += _nobody(report)
    if place is not None and in_hand is None:
        sentences.append(_placed(report, place))
    if result is not None:
        sentences.append(_ended(report, result))
    if not held:
        sentences += [] if result else _no_result(report)
        sentences += [] if place or result else _no_place(report)
    described = next((each for each in held if each.task), None)
    return LookUp(
        id=shorten(task_id),
        key=shorten(text).shown,
        state=_state(held, place, result),
        held=f"{_doing(in_hand.state)} {shorten(in_hand.worker).shown}" if in_hand else "",
        sentences=sentences,
        task=_whole(described) if described else None,
        pairs=pairs(described.task) if described else None,
    )


def _whole(held: Held) -> Task:
    """Return the row of a task with as much of its arguments as a page can show."""
    row = task_row(held.worker, held.task)
    return row._replace(arguments=arguments(held.task, ARGUMENTS_LENGTH))


def _state(held: Sequence[Held], place: Place | None, result: Result | None) -> str:
    if held:
        return shorten(held[0].state, 40).shown
    if place is not None:
        return "queued" if place.before is not None else "delivered"
    return result.state.lower() if result is not None else ""


def _doing(state: str) -> str:
    return {"active": "running on", "reserved": "received by", "scheduled": "held by"}.get(
        state, "known to"
    )


def _where(report: Report, held: Held) -> str:
    """Return the sentence for what a worker says of a task."""
    worker, task = shorten(held.worker).shown, held.task
    if held.state == "active":
        seconds = running_for(report, held.worker, task)
        if seconds is None:
            return f"Running on {worker}."
        since = time_of_day(time_before(report, seconds), report.taken_at)
        return f"Running on {worker} for {duration(seconds)}, since {since}."
    if held.state == "scheduled":
        return _until_eta(report, worker, held)
    return {
        "reserved": f"Received by {worker}, not started{_why_not(report, held.worker)}.",
        "ready": f"Known to {worker}: it has just finished, or is about to be started.",
        "revoked": f"Revoked (known to {worker}): a worker that receives it will not execute it.",
    }.get(held.state, f"{worker} says of it: {shorten(held.state, 40).shown}.")


def _why_not(report: Report, worker: str) -> str:
    """Return why a worker may not have started a task; empty if it did not say how busy it is."""
    running = (report.answers.get("active") or {}).get(worker)
    slots = count(slots_of((report.answers.get("stats") or {}).get(worker)))
    if slots.value is None or not isinstance(running, list | tuple):
        return ""
    reason = ", so a rate limit may hold it back" if len(running) < slots.value else ""
    return f"; slots busy: {len(running):,} of {slots.shown}{reason}"


def _until_eta(report: Report, worker: str, held: Held) -> str:
    eta: datetime | None = eta_of(held.task)
    if eta is None:
        return f"On {worker} until its ETA."
    seconds = time_to_go(report, held.worker, eta)
    if seconds < 1:
        return f"On {worker}, due now by its ETA."
    at = time_of_day(eta, report.taken_at)
    return f"On {worker} until its ETA, due in {duration(seconds)} ({at})."


def _nobody(report: Report) -> Iterator[str]:
    """Yield that no worker knows it, and who may."""
    narrowed_by = report.question.narrowed_by
    if not any(report.answers.values()):
        yield f"{heading('none', report)}."
    elif narrowed_by:
        yield f"No answer names it, but only some {' and '.join(narrowed_by)} were asked for."
    else:
        yield "No worker that answered knows it."
    if report.missing:
        who = name_a_few(list(report.missing))
        yield f"{who} did not answer, and may hold it or be executing it."


def _ended(report: Report, result: Result) -> str:
    """Return the sentence for what the result backend holds."""
    meaning = STATES.get(result.state, "it has a state of its own")
    when = ""
    if result.at is not None:
        passed = (report.taken_at - result.at).total_seconds()
        ago = f", {duration(passed)} ago" if passed >= 1 else ""
        when = f" at {time_of_day(result.at, report.taken_at, seconds=True)}{ago}"
    return f"The result backend says {result.state}: {meaning}{when}."


def _no_result(report: Report) -> Iterator[str]:
    """Yield what follows from a result backend that says nothing of it."""
    if report.traces is not None:
        yield {
            Backend.ANSWERED: "The result backend has nothing of it: results expire, and tasks "
            "that ignore their result leave none.",
            Backend.NONE: "The app has no result backend, so nothing says whether it has ended.",
            Backend.PRIVATE: "The result goes only to the process that sent the task, so "
            "nobody else can know how it ended.",
            Backend.LATE: "The result backend did not answer in time.",
            Backend.FAILED: "The result backend failed; the log of this process says why.",
        }[report.traces.backend]


def _placed(report: Report, place: Place) -> str:
    """Return the sentence for where the broker holds a task."""
    queue = shorten(place.queue).shown
    if place.before is None:
        # Celery acknowledges a task when it starts, or with acks_late when it has ended. The event
        # loop does so, which does not run while the solo pool executes a task.
        origin = f"from {queue} " if queue else ""
        return (
            f"It was delivered {origin}to a worker that has not acknowledged it. It may wait "
            "there, or be running there with acks_late or in the solo pool, or the worker may be "
            "gone. It is delivered again if it is not acknowledged within the visibility timeout."
        )
    before = f"about {plural(place.before, 'message')}" if place.before else "no message"
    return f"Waits in {queue}, {before} before it{_consumed_by(report, place.queue)}."


def _consumed_by(report: Report, queue: str) -> str:
    if report.active_queues is None:
        return ""
    if queue in report.consumers_by_queue:
        return f", consumed by {name_a_few(report.consumers_by_queue[queue])}"
    asked = "was asked and answered" if report.question.workers else "answered"
    return f", and no worker that {asked} consumes it"


def _no_place(report: Report) -> Iterator[str]:
    """Yield what follows from queues in which it was not found."""
    lengths = report.queues
    if report.traces is None or not lengths:
        return
    queues = sorted(lengths, key=lambda name: (-lengths[name], name))
    listed = ", ".join(shorten(name).shown for name in queues[:QUEUES_NAMED])
    more = f" and {len(queues) - QUEUES_NAMED:,} more" if len(queues) > QUEUES_NAMED else ""
    if report.traces.extent is Extent.ALL:
        yield f"It is not in the queues {listed}{more}."
    elif report.traces.extent is Extent.PART:
        yield (
            f"It was not found in the queues {listed}{more}, of which no more than "
            f"{MAX_MESSAGES:,} messages and {MAX_BYTES // 2**20} MiB are looked through."
        )
    else:
        yield "Nobody can look into the queues of this broker."
        for name in queues[:QUEUES_NAMED]:
            if lengths[name]:
                waiting = f"Messages in {shorten(name).shown}: {lengths[name]:,}"
                yield f"{waiting}{_consumed_by(report, name)}."
