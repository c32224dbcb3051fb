"""A report as metrics, in the two text formats that Prometheus reads.

Needs ``prometheus-client``, which the extra ``metrics`` installs.

Workers are not trusted: a worker may have any name, and may send any JSON value under any key.
A value that is not a finite number has no sample. Names are cut and cleaned before they become
values of labels. The number of series is limited. Each call starts afresh: nothing is kept from
one report to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from .control.queues import consumed_queues
from .report import Report
from .shapes import answering, length_of, number, replies_of, slots, value_at
from .times import age

#: The most workers and queues that have series. Workers that answered come before missing ones.
MAX_WORKERS = 1_000
MAX_QUEUES = 100
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


#: The help of the figures of each worker, by the whole names of their series. The name ends with
#: the unit, if there is one. CONTRIBUTING.md lists what else a new one needs.
_GAUGES = {
    "celery_worker_tasks_active": "Tasks that the worker is executing.",
    "celery_worker_tasks_reserved": "Tasks that the worker has received and not yet started.",
    "celery_worker_tasks_scheduled": "Tasks that the worker holds until their ETA.",
    "celery_worker_tasks_revoked": "Ids of revoked tasks that the worker remembers.",
    "celery_worker_oldest_active_task_age_seconds": (
        "Time since the oldest running task of the worker was started; 0 if no task is running."
    ),
    "celery_worker_concurrency": "Tasks that the worker can execute at the same time.",
    "celery_worker_prefetch_limit": (
        "Messages that the worker may hold at the same time; 0 means no limit."
    ),
    "celery_worker_uptime_seconds": "Time since the worker was started.",
    "celery_worker_resident_memory_peak_bytes": (
        "Largest resident memory of the worker's main process since it was started (Linux)."
    ),
}


def _figures(report: Report, name: str) -> dict[str, float | None]:
    """Return the value of each of ``_GAUGES`` for one worker; None for those that it has not."""
    replies = replies_of(report.answers, name)
    # Linux reports it in units of 1 024 bytes.
    memory = number(value_at(replies, "stats", "rusage", "maxrss"))
    return {
        "celery_worker_tasks_active": length_of(replies.get("active")),
        "celery_worker_tasks_reserved": length_of(replies.get("reserved")),
        "celery_worker_tasks_scheduled": length_of(replies.get("scheduled")),
        "celery_worker_tasks_revoked": length_of(replies.get("revoked")),
        "celery_worker_oldest_active_task_age_seconds": _oldest(report, name),
        "celery_worker_concurrency": number(slots(replies.get("stats"))),
        "celery_worker_prefetch_limit": number(value_at(replies, "stats", "prefetch_count")),
        "celery_worker_uptime_seconds": number(value_at(replies, "stats", "uptime")),
        "celery_worker_resident_memory_peak_bytes": memory and number(1024 * memory),
    }


def _oldest(report: Report, name: str) -> float | None:
    """Return the age of the oldest running task in seconds; 0 if no task is running.

    None if the worker did not list its running tasks, or the age of none of them is known.
    """
    tasks = (report.answers["active"] or {}).get(name)
    if not isinstance(tasks, list | tuple):
        return None
    ages = [seconds for task in tasks if (seconds := age(report, name, task)) is not None]
    return max(ages, default=None if tasks else 0.0)


class _Families(Collector):
    """The metrics of one report. ``collect()`` may be called once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._omitted = 0

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples."""
        answers, missing = self._report.answers, self._report.missing
        answered = answering(answers)
        silent = sorted(set(missing).difference(answered))
        names = dict(self._labelled([*answered, *silent], MAX_WORKERS))
        up = set(answered)
        yield _gauge(
            "celery_worker_up",
            "1 if the worker answered, 0 if it is known and did not answer.",
            ((label, float(name in up)) for label, name in names.items()),
        )
        workers = {label: replies_of(answers, name) for label, name in names.items() if name in up}
        figures = {label: _figures(self._report, names[label]) for label in workers}
        for gauge, text in _GAUGES.items():
            yield _gauge(gauge, text, ((label, found[gauge]) for label, found in figures.items()))
        yield self._tasks(workers)
        yield from self._queues()
        yield from self._snapshot(len(answered), len(missing))

    def _queues(self) -> Iterator[Metric]:
        """Yield the length of each queue, and how many workers consume it.

        A worker that did not answer may consume any queue.
        """
        lengths, replies = self._report.queues or {}, self._report.consumers
        consumers = consumed_queues(replies or {})
        labels = dict(self._labelled(dict.fromkeys([*lengths, *consumers]), MAX_QUEUES))
        yield _gauge(
            "celery_queue_length",
            "Messages that wait in the queue.",
            ((label, lengths.get(name)) for label, name in labels.items()),
            label_name="queue_name",
        )
        if replies is None:
            return
        by_label = {label: consumers.get(name, ()) for label, name in labels.items()}
        yield _gauge(
            "celery_active_consumer_count",
            "Workers that answered and consume the queue.",
            ((label, len(workers)) for label, workers in by_label.items()),
            label_name="queue_name",
        )
        stats = self._report.answers["stats"] or {}
        room = {worker: number(slots(reply)) or 0.0 for worker, reply in stats.items()}
        rooms = {label: [room.get(w, 0.0) for w in workers] for label, workers in by_label.items()}
        yield _gauge(
            "celery_active_process_count",
            "Tasks that these workers can execute at the same time.",
            ((label, sum(each)) for label, each in rooms.items()),
            label_name="queue_name",
        )

    def _tasks(self, workers: Mapping[str, Mapping[str, Any]]) -> Metric:
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
        for hostname, replies in workers.items():
            total = value_at(replies, "stats", "total")
            for label, name in self._labelled(total if isinstance(total, Mapping) else (), limit):
                value = number(total[name])
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
            "celery_snapshot_subscribers_silent",
            "Connections that listen on the workers' channel in Redis and did not answer, and for "
            "which no name of a worker fits.",
            self._report.unnamed,
        )
        yield GaugeMetricFamily(
            "celery_snapshot_replies_unreadable",
            "Replies that this process may not or cannot read.",
            self._report.unreadable,
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
    name: str, text: str, samples: Iterable[tuple[str, float | None]], label_name: str = "hostname"
) -> Metric:
    """Return a gauge with a sample for each pair of a label's value and a number."""
    unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
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
