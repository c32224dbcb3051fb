"""A report as metrics, in the text formats that Prometheus reads.

Needs ``prometheus-client``, which the extra ``metrics`` installs. A worker may send any JSON
value under any key, and may have any name: what is no usable number gives no sample, and labels
are made harmless. Nothing is remembered between two reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from math import isfinite
from typing import Any

from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from .report import Report

#: Workers that have series, those that answered first; and queues that have one.
MAX_NAMES = 1_000
#: Series of tasks: for one worker, and for all, of which each worker gets an equal share.
MAX_TASKS = 500
MAX_TASKS_IN_ALL = 20_000
#: Characters of a label's value.
MAX_LABEL = 200

#: Control characters: Prometheus takes the first of them for the end of the text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Replies = Mapping[str, Any]  # field -> what one worker answered


def openmetrics(report: Report) -> bytes:
    """Return the metrics of a report in the OpenMetrics 1.0 text format."""
    text: bytes = openmetrics_text(_Families(report))  # type: ignore[no-untyped-call]
    return text


def prometheus(report: Report) -> bytes:
    """Return the metrics of a report in Prometheus' own text format 0.0.4."""
    return prometheus_text(_Families(report))


@dataclass(frozen=True)
class _Gauge:
    """A value of each worker.

    Attributes:
        name: without the unit.
        help: one sentence.
        read: the value in a worker's replies; None where there is none. Takes the seconds
            since 1970 at which the workers were asked as well.
        unit: what the name ends with.
    """

    name: str
    help: str
    read: Callable[[Replies, float], float | None]
    unit: str = ""


class _Families(Collector):
    """The metrics of one report; made for it and dropped with it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._omitted = 0

    def collect(self) -> Iterator[Metric]:
        data, missing = self._report.answers, self._report.missing
        answered = sorted({*chain.from_iterable(replies or () for replies in data.values())})
        silent = sorted(set(missing).difference(answered))
        names = dict(self._labelled([*answered, *silent], MAX_NAMES))
        up = set(answered)
        yield _gauge(
            "celery_worker_up",
            "Whether the worker answered (1) or is known and did not (0).",
            ((label, float(name in up)) for label, name in names.items()),
        )
        workers = {
            label: {field: (replies or {}).get(name) for field, replies in data.items()}
            for label, name in names.items()
            if name in up
        }
        asked_at = self._report.taken_at.timestamp()
        for gauge in _GAUGES:
            samples = ((label, gauge.read(each, asked_at)) for label, each in workers.items())
            yield _gauge(gauge.name, gauge.help, samples, unit=gauge.unit)
        yield self._tasks(workers)
        queues = dict(self._report.queues or {})
        yield _gauge(
            "celery_queue_length",
            "Messages that wait in the queue.",
            ((label, float(queues[name])) for label, name in self._labelled(queues, MAX_NAMES)),
            "queue_name",
        )
        yield from self._snapshot(len(answered), len(missing))

    def _tasks(self, workers: Mapping[str, Replies]) -> Metric:
        family = CounterMetricFamily(
            "celery_task_started",
            "Tasks that the worker has accepted for execution since it was started.",
            labels=("hostname", "name"),
        )
        share = min(MAX_TASKS, MAX_TASKS_IN_ALL // max(len(workers), 1))
        for worker, replies in workers.items():
            total = _inside(replies, "total")
            for label, name in self._labelled(total if isinstance(total, Mapping) else (), share):
                value = _number(total[name])
                # A counter may be nothing else.
                if value is not None and value >= 0:
                    family.add_metric((worker, label), value)
        return family

    def _snapshot(self, answered: int, missing: int) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "celery_snapshot_duration",
            "What it took to ask the workers, until the last answer.",
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
            "Names of workers, tasks and queues that have no series, because there are too many.",
            self._omitted,
        )

    def _labelled(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, str]]:
        """Yield the first ``limit`` names, each with a label that no other has.

        Two samples with equal labels would make Prometheus refuse the whole.
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
    label_name: str = "hostname",
    *,
    unit: str = "",
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label_name,), unit=unit)
    for label, value in samples:
        if value is not None:
            family.add_metric((label,), value)
    return family


def _label(name: str) -> str:
    """A name as a label's value; where it is too long, its beginning and its hash."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", name.encode("utf-8", "replace").decode())
    if len(text) <= MAX_LABEL:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[: MAX_LABEL - 17]}…{digest}"


# Values


def _number(value: Any) -> float | None:
    """The value where it is a finite number; workers send ``"N/A"`` and null in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _inside(replies: Replies, *path: str) -> Any:
    """What stands in a worker's ``stats`` under a path of keys; None where nothing does."""
    value = replies.get("stats")
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _length(replies: Replies, _asked_at: float, *, field: str) -> float | None:
    reply = replies.get(field)
    return float(len(reply)) if isinstance(reply, list | tuple) else None


def _stat(replies: Replies, _asked_at: float, *, path: tuple[str, ...]) -> float | None:
    return _number(_inside(replies, *path))


def _peak_memory(replies: Replies, _asked_at: float) -> float | None:
    kilobytes = _number(_inside(replies, "rusage", "maxrss"))
    return None if kilobytes is None else 1024 * kilobytes


def _oldest(replies: Replies, asked_at: float) -> float | None:
    """The age of the oldest running task; 0 where none runs, None where none has a start."""
    tasks = replies.get("active")
    if not isinstance(tasks, list | tuple):
        return None
    starts = [_number(task.get("time_start")) for task in tasks if isinstance(task, Mapping)]
    ages = [max(asked_at - start, 0.0) for start in starts if start is not None]
    return max(ages, default=None if tasks else 0.0)


_GAUGES = (
    _Gauge(
        "celery_worker_tasks_active",
        "Tasks that the worker is executing.",
        partial(_length, field="active"),
    ),
    _Gauge(
        "celery_worker_tasks_reserved",
        "Tasks that the worker has received and not yet started.",
        partial(_length, field="reserved"),
    ),
    _Gauge(
        "celery_worker_tasks_scheduled",
        "Tasks that the worker holds until their ETA.",
        partial(_length, field="scheduled"),
    ),
    _Gauge(
        "celery_worker_tasks_revoked",
        "Ids of revoked tasks that the worker remembers.",
        partial(_length, field="revoked"),
    ),
    _Gauge(
        "celery_worker_oldest_active_task_age",
        "For how long the worker's oldest running task has run; 0 if it runs none.",
        _oldest,
        unit="seconds",
    ),
    _Gauge(
        "celery_worker_concurrency",
        "Tasks that the worker can execute at the same time.",
        partial(_stat, path=("pool", "max-concurrency")),
    ),
    _Gauge(
        "celery_worker_prefetch_limit",
        "Messages that the worker may hold at the same time; 0 is no limit.",
        partial(_stat, path=("prefetch_count",)),
    ),
    _Gauge(
        "celery_worker_uptime",
        "Time since the worker was started.",
        partial(_stat, path=("uptime",)),
        unit="seconds",
    ),
    _Gauge(
        "celery_worker_resident_memory_peak",
        "Largest resident memory of the worker's main process since it was started (Linux).",
        _peak_memory,
        unit="bytes",
    ),
)
