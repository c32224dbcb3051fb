"""What people should know of a report first: the heading, notes, and remarks at single workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from celery_stats.report import Report
from celery_stats.shapes import unexpected_replies

from .text import plural

#: By worker, the field and the text of each remark. The field is empty if it is about no answer.
Remarks: TypeAlias = dict[str, Sequence[tuple[str, Any]]]

CONSUMES_NOTHING = "It consumes no queue, so that it receives no task. A restart helps."


class Finding(NamedTuple):
    """Something that a report can show.

    Attributes:
        heading: the heading of the page, if nothing before it is found.
        heading_of_some: the same where only some workers were asked, if that is another one.
        find: returns what is found in a report; something that is false if that is nothing.
        note: returns a sentence about it, which names nobody, for the top of the page.
        is_at_workers: whether ``find`` returns :data:`Remarks`.
    """

    heading: str
    find: Callable[[Report], Any]
    note: Callable[[Any], str] | None = None
    is_at_workers: bool = False
    heading_of_some: str = ""


def silent_workers(report: Report) -> set[str]:
    """Return the missing workers that answered nothing."""
    return set(report.missing).difference(*(found or () for found in report.answers.values()))


def forgettable(report: Report) -> list[str]:
    """Return the workers that the broker may go on listing although they are gone."""
    # A worker that was asked for by name need not be in the list. A reply that could not be read
    # may be that of any missing worker.
    if not report.keeps_names or report.question.workers or report.unreadable:
        return []
    return sorted(silent_workers(report))


def incomplete(report: Report) -> Remarks:
    """Return the workers that owe an answer, or gave one of another shape, such as an error."""
    return {**dict.fromkeys(report.missing, ()), **unexpected_replies(report.answers)}


def orphaned_queues(report: Report) -> set[str]:
    """Return the queues in which messages wait, and that no worker that answered consumes.

    They are not known if only some workers were asked.
    """
    if report.active_queues is None or "workers" in report.question.narrowed_by:
        return set()
    waiting = {queue for queue, length in (report.queues or {}).items() if length}
    return waiting - report.consumers_by_queue.keys()


def consuming_nothing(report: Report) -> Remarks:
    """Return the workers that say that they consume no queue."""
    replies = (report.active_queues or {}).items()
    return {name: [("", CONSUMES_NOTHING)] for name, reply in replies if reply in ([], ())}


def _unreadable(replies: int) -> str:
    return (
        f"{replies:,} {'reply' if replies == 1 else 'replies'} came that this process may not or "
        "cannot read. Compare its accept_content and its certificates with those of the workers, "
        "which are alive."
    )


def _subscribers(connections: int) -> str:
    one = connections == 1
    who = "a frozen worker, or another program" if one else "frozen workers, or other programs"
    return (
        f"{plural(connections, 'connection')} {'listens' if one else 'listen'} on the "
        f"workers\N{RIGHT SINGLE QUOTATION MARK} channel in Redis and did not answer: {who}."
    )


#: The first one that is found is the state of the page. Only the last one is good.
FINDINGS = {
    "none": Finding(
        "No worker answered",
        lambda report: not any(report.answers.values()),
        heading_of_some="No worker that was asked answered",
    ),
    "missing": Finding("Workers are missing", silent_workers),
    "partial": Finding("Some answers are missing", incomplete, is_at_workers=True),
    "unreadable": Finding(
        "Some replies cannot be read", lambda report: report.unreadable, note=_unreadable
    ),
    "subscribers": Finding(
        "Somebody did not answer", lambda report: report.silent_subscribers, note=_subscribers
    ),
    "backlog": Finding("Messages wait that nobody consumes", orphaned_queues),
    "without_queue": Finding("A worker consumes no queue", consuming_nothing, is_at_workers=True),
    "complete": Finding(
        "Every worker answered",
        lambda report: True,
        heading_of_some="Every worker that was asked answered",
    ),
}


def look_into(report: Report) -> dict[str, Any]:
    """Return what is found, by key of :data:`FINDINGS` and in its order. It is never empty."""
    found = {key: finding.find(report) for key, finding in FINDINGS.items()}
    return {key: value for key, value in found.items() if value}


def heading(state: str, report: Report) -> str:
    """Return the heading for a key of :data:`FINDINGS`."""
    found = FINDINGS[state]
    is_some = "workers" in report.question.narrowed_by
    return (is_some and found.heading_of_some) or found.heading


def remarks_at(found: dict[str, Any], worker: str) -> Iterator[tuple[str, Any]]:
    """Yield the remarks at a worker."""
    for key, value in found.items():
        if FINDINGS[key].is_at_workers:
            yield from value.get(worker, ())


def notes(report: Report) -> Iterator[str]:
    """Yield what must be said of who did not answer, without a name."""
    for finding in FINDINGS.values():
        if finding.note and (found := finding.find(report)):
            yield finding.note(found)
