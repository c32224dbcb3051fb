"""Since when tasks run and when they are due, measured against the clocks of their workers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive

from .control.question import Extras
from .report import Report
from .shapes import number, value_at

#: Seconds by which an age may exceed the uptime of the worker, which is sent in whole seconds.
UPTIME_SLACK = 5
#: Seconds of the longest age that is subtracted from a time: 31 years.
LONGEST_AGE = 1e9


def time_at(report: Report, worker: str) -> float:
    """Return the seconds since 1970 when a worker answered: by its own clock, if it sent them."""
    time = report.extras.get(worker, Extras()).time
    return report.taken_at.timestamp() if time is None else time


def running_for(report: Report, worker: str, task: Any) -> float | None:
    """Return the seconds since a worker started a task; None if that is not known.

    ``time_start`` is wall-clock time in every supported version, because the worker converts its
    monotonic time (``Request.on_accepted``). The worker's own clock is the measure. Without it,
    the clocks of two machines are compared, and an age beyond the uptime of the worker shows that
    they differ.
    """
    seconds = number(value_at(task, "time_start"))
    if seconds is None:
        return None
    passed = max(time_at(report, worker) - seconds, 0.0)
    uptime = number(value_at(report.answers, "stats", worker, "uptime"))
    is_beyond = uptime is not None and passed > uptime + UPTIME_SLACK
    return None if is_beyond and report.extras.get(worker, Extras()).time is None else passed


def time_before(report: Report, seconds: float) -> datetime:
    """Return the time that was so many seconds before the snapshot."""
    return report.taken_at - timedelta(seconds=min(seconds, LONGEST_AGE))


def eta_of(task: Any) -> datetime | None:
    """Return the ETA of an item of ``scheduled``; None if it has no time zone."""
    text: Any = value_at(task, "eta")
    try:
        eta = parse_datetime(text)
    except (TypeError, ValueError):
        return None
    return None if eta is None or is_naive(eta) else eta


def time_to_go(report: Report, worker: str, eta: datetime) -> float:
    """Return the seconds until an ETA, by the clock of the worker that holds the task."""
    return eta.timestamp() - time_at(report, worker)
