"""A report as metrics, in the two text formats that Prometheus reads.

Needs ``prometheus-client``, which the extra ``metrics`` installs.

Workers are not trusted: a worker may have any name, and may send any JSON value under any key.
A value that is not a finite number has no sample. Names are cut and cleaned before they become
values of labels. The number of series is limited. Each call starts afresh: nothing is kept from
one report to the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from .report import Report

#: The most workers that have series. Workers that answered come before missing ones.
#: The most queues is ``MAX_QUEUES`` of ``control/queues.py``: a report holds no more of them.
MAX_WORKERS = 1_000
#: The most series of ``celery_task_started_total``, of one worker and of all workers together.
#: The limit for all workers is divided equally among those that answered.
MAX_TASKS_OF_ONE_WORKER = 500
MAX_TASKS_OF_ALL_WORKERS = 20_000
#: The most characters in the value of a label.
MAX_LABEL = 200

#: Control characters. Both formats allow them in labels, but a terminal that prints an alert would
#: act on some of them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def openmetrics(report: Report) -> bytes:
    """Return the metrics of a report in the OpenMetrics 1.0 text format."""
    text: bytes = openmetrics_text(_Families(report))  # type: ignore[no-untyped-call]
    return text


def prometheus(report: Report) -> bytes:
    """Return the metrics of a report in Prometheus' text format 0.0.4."""
    return prometheus_text(_Families(report))


@dataclass(frozen=True)
class _Worker:
    """The replies of one worker, and the values that gauges read from them.

    Attributes:
        replies: field to reply; None for a field that the worker did not answer.
        asked_at: when the workers were asked, in seconds since 1970.
    """

    replies: Mapping[str, Any]
    asked_at: float

    def length(self, field: str) -> float | None:
        """Return the number of items in the reply to a field; None if the reply is no list."""
        reply = self.replies.get(field)
        return float(len(reply)) if isinstance(reply, list | tuple) else None

    def stat(self, *path: str) -> Any:
        """Return the value under a path of keys in the reply to ``stats``; None without one."""
        value = self.replies.get("stats")
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str) -> float | None:
        """Return the number under a path of keys in the reply to ``stats``; None without one."""
        return _number(self.stat(*path))

    def peak_memory(self) -> float | None:
        """Return the largest resident memory in bytes; Linux reports it in units of 1 024."""
        kibibytes = self.number("rusage", "maxrss")
        return None if kibibytes is None else 1024 * kibibytes

    def oldest_task_age(self) -> float | None:
        """Return the age of the oldest running task in seconds; 0 if no task is running.

        None if the worker did not list its running tasks, or sent no start time for any of them.
        """
        tasks = self.replies.get("active")
        if not isinstance(tasks, list | tuple):
            return None
        starts = [_number(task.get("time_start")) for task in tasks if isinstance(task, Mapping)]
        ages = [max(self.asked_at - start, 0.0) for start in starts if start is not None]
        return max(ages, default=None if tasks else 0.0)


class _Gauge(NamedTuple):
    """A figure of each worker. ``read`` returns None for a worker that has none."""

    name: str  # the whole name of the series, with the unit
    help: str  # one sentence
    read: Callable[[_Worker], float | None]
    unit: str = ""  # with which ``name`` ends


# The figures of each worker. CONTRIBUTING.md lists what else a new one needs.
_GAUGES = (
    _Gauge(
        "celery_worker_tasks_active",
        "Tasks that the worker is executing.",
        lambda worker: worker.length("active"),
    ),
    _Gauge(
        "celery_worker_tasks_reserved",
        "Tasks that the worker has received and not yet started.",
        lambda worker: worker.length("reserved"),
    ),
    _Gauge(
        "celery_worker_tasks_scheduled",
        "Tasks that the worker holds until their ETA.",
        lambda worker: worker.length("scheduled"),
    ),
    _Gauge(
        "celery_worker_tasks_revoked",
        "Ids of revoked tasks that the worker remembers.",
        lambda worker: worker.length("revoked"),
    ),
    _Gauge(
        "celery_worker_oldest_active_task_age_seconds",
        "Time since the oldest running task of the worker was started; 0 if no task is running.",
        _Worker.oldest_task_age,
        unit="seconds",
    ),
    _Gauge(
        "celery_worker_concurrency",
        "Tasks that the worker can execute at the same time.",
        lambda worker: worker.number("pool", "max-concurrency"),
    ),
    _Gauge(
        "celery_worker_prefetch_limit",
        "Messages that the worker may hold at the same time; 0 means no limit.",
        lambda worker: worker.number("prefetch_count"),
    ),
    _Gauge(
        "celery_worker_uptime_seconds",
        "Time since the worker was started.",
        lambda worker: worker.number("uptime"),
        unit="seconds",
    ),
    _Gauge(
        "celery_worker_resident_memory_peak_bytes",
        "Largest resident memory of the worker's main process since it was started (Linux).",
        _Worker.peak_memory,
        unit="bytes",
    ),
)


class _Families(Collector):
    """The metrics of one report. ``collect()`` may be called once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._omitted = 0

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples."""
        answers, missing = self._report.answers, self._report.missing
        answered = sorted({*chain.from_iterable(replies or () for replies in answers.values())})
        silent = sorted(set(missing).difference(answered))
        names = dict(self._labelled([*answered, *silent], MAX_WORKERS))
        up = set(answered)
        yield _gauge(
            "celery_worker_up",
            "1 if the worker answered, 0 if it is known and did not answer.",
            ((label, float(name in up)) for label, name in names.items()),
        )
        asked_at = self._report.taken_at.timestamp()
        workers = {
            label: _Worker(
                {field: (replies or {}).get(name) for field, replies in answers.items()}, asked_at
            )
            for label, name in names.items()
            if name in up
        }
        for gauge in _GAUGES:
            samples = ((label, gauge.read(worker)) for label, worker in workers.items())
            yield _gauge(gauge.name, gauge.help, samples, unit=gauge.unit)
        yield self._tasks(workers)
        queues = self._report.queues or {}
        yield _gauge(
            "celery_queue_length",
            "Messages that wait in the queue.",
            ((label, float(queues[name])) for label, name in self._labelled(queues, len(queues))),
            label_name="queue_name",
        )
        yield from self._snapshot(len(answered), len(missing))

    def _tasks(self, workers: Mapping[str, _Worker]) -> Metric:
        """Return the number of tasks by worker and name of the task.

        The name is celery-exporter's. It counts the event task-started, and a worker sends that
        event when it adds a task to this total.
        """
        family = CounterMetricFamily(
            "celery_task_started_total",
            "Tasks that the worker has accepted for execution since it was started.",
            labels=("hostname", "name"),
        )
        limit = min(MAX_TASKS_OF_ONE_WORKER, MAX_TASKS_OF_ALL_WORKERS // max(len(workers), 1))
        for hostname, worker in workers.items():
            total = worker.stat("total")
            for label, name in self._labelled(total if isinstance(total, Mapping) else (), limit):
                value = _number(total[name])
                # OpenMetrics forbids counters below zero.
                if value is not None and value >= 0:
                    family.add_metric((hostname, label), value)
        return family

    def _snapshot(self, answered: int, missing: int) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "celery_snapshot_duration_seconds",
            "Time from the start of the snapshot to the last answer of a worker.",
            self._report.elapsed,
            unit="seconds",
        )
        yield GaugeMetricFamily(
            "celery_snapshot_workers_answered", "Workers that answered.", answered
        )
        yield GaugeMetricFamily(
            "celery_snapshot_workers_missing",
            "Workers that are known and did not answer everything that they were asked.",
            missing,
        )
        yield GaugeMetricFamily(
            "celery_snapshot_names_omitted",
            "Names of workers, tasks and queues that have no series, because there are too many "
            "or because another name has the same label.",
            self._omitted,
        )

    def _labelled(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, str]]:
        """Yield the label and the name of the first names, each label once; count the rest.

        Two names can have the same label. Prometheus refuses the whole scrape if two samples have
        equal labels, so only the first of them is kept.
        """
        taken: set[str] = set()
        for name in names:
            label = _label(name)
            if len(taken) < limit and label not in taken:
                taken.add(label)
                yield label, name
            else:
                self._omitted += 1


def _gauge(
    name: str,
    text: str,
    samples: Iterable[tuple[str, float | None]],
    *,
    label_name: str = "hostname",
    unit: str = "",
) -> Metric:
    """Return a gauge with a sample for each pair of a label's value and a number."""
    family = GaugeMetricFamily(name, text, labels=(label_name,), unit=unit)
    for label, value in samples:
        if value is not None:
            family.add_metric((label,), value)
    return family


def _label(name: str) -> str:
    """Return a name as the value of a label.

    Control characters and characters that UTF-8 cannot encode are replaced. A name that is too
    long is cut and ends with its hash, so that long names that begin alike stay different.
    """
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", name.encode("utf-8", "replace").decode())
    if len(text) <= MAX_LABEL:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[: MAX_LABEL - 17]}…{digest}"


def _number(value: Any) -> float | None:
    """Return a value as a float; None if it is not a finite number.

    Unlike ``number`` of the page, which refuses numbers of 10**18 and more, it accepts every
    finite float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None
