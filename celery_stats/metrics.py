"""A report as metrics, in the two text formats that Prometheus reads.

Needs ``prometheus-client``, which the extra ``metrics`` installs.

Workers are not trusted: a worker may have any name, and may send any JSON value under any key.
A value that is not a finite number has no sample. Names are cut and cleaned before they become
values of labels. The number of series is limited. Each call starts afresh: nothing is kept from
one report to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from .report import Report
from .shapes import CONTROL, answering, length_of, mapping, number, replies_of, slots_of, value_at
from .times import running_for

#: The most workers and queues that have series. Workers that answered come before missing ones.
WORKERS_EXPORTED = 1_000
QUEUES_EXPORTED = 100
#: The most series of ``celery_task_started_total``, of one worker and of all workers together.
#: The limit for all workers is divided equally among those that answered.
MAX_TASKS_OF_ONE_WORKER = 500
MAX_TASKS_OF_ALL_WORKERS = 20_000
#: The most characters in the value of a label.
MAX_LABEL = 200


def openmetrics(report: Report) -> bytes:
    """Return the metrics of a report in the OpenMetrics 1.0 text format."""
    text: bytes = openmetrics_text(_Families(report))  # type: ignore[no-untyped-call]
    return text


def prometheus(report: Report) -> bytes:
    """Return the metrics of a report in Prometheus' text format 0.0.4."""
    return prometheus_text(_Families(report))


class _Worker(NamedTuple):
    """A worker that answered, or is known and did not."""

    report: Report
    name: str
    answered: bool
    replies: Mapping[str, Any]

    def stat(self, *path: str) -> Any:
        return value_at(self.replies["stats"], *path)

    def oldest(self) -> float | None:
        """Return the age of the oldest running task in seconds; 0 if no task is running.

        None if the worker did not list its running tasks, or the age of none of them is known.
        """
        tasks = self.replies["active"]
        if not isinstance(tasks, list | tuple):
            return None
        ages = [running_for(self.report, self.name, task) for task in tasks]
        known = [age for age in ages if age is not None]
        return max(known, default=None if tasks else 0.0)

    def peak_memory(self) -> float | None:
        """Return bytes. Linux reports units of 1 024 bytes."""
        memory = number(self.stat("rusage", "maxrss"))
        return memory and 1024 * memory


class _Queue(NamedTuple):
    """A queue.

    Attributes:
        length: the messages that wait in it; None if that is not known.
        slots: those of each worker that answered and consumes it, None if they are not known; None
            if not all workers were asked. A worker that did not answer may consume it as well.
    """

    length: int | None
    slots: Sequence[float | None] | None

    def all_slots(self) -> float | None:
        known = [slots for slots in self.slots or () if slots is not None]
        return sum(known) if self.slots is not None and len(known) == len(self.slots) else None


#: The help of a gauge, and what returns its value; None where there is no sample.
_Gauge: TypeAlias = tuple[str, Callable[[Any], float | None]]

#: Label to name to gauge: of each worker, of each queue, and without a label of the snapshot. A
#: name ends with the unit, if there is one. CONTRIBUTING.md lists what else a new one needs.
_GAUGES: Mapping[str, Mapping[str, _Gauge]] = {
    "hostname": {
        "celery_worker_up": (
            "1 if the worker answered, 0 if it is known and did not answer.",
            lambda worker: worker.answered,
        ),
        "celery_worker_tasks_active": (
            "Tasks that the worker is executing.",
            lambda worker: length_of(worker.replies["active"]),
        ),
        "celery_worker_tasks_reserved": (
            "Tasks that the worker has received and not yet started.",
            lambda worker: length_of(worker.replies["reserved"]),
        ),
        "celery_worker_tasks_scheduled": (
            "Tasks that the worker holds until their ETA.",
            lambda worker: length_of(worker.replies["scheduled"]),
        ),
        "celery_worker_tasks_revoked": (
            "Ids of revoked tasks that the worker remembers.",
            lambda worker: length_of(worker.replies["revoked"]),
        ),
        "celery_worker_oldest_active_task_age_seconds": (
            "Time since the oldest running task of the worker was started; 0 if no task is "
            "running.",
            _Worker.oldest,
        ),
        "celery_worker_concurrency": (
            "Tasks that the worker can execute at the same time.",
            lambda worker: number(slots_of(worker.stat())),
        ),
        "celery_worker_prefetch_limit": (
            "Messages that the worker may hold at the same time; 0 means no limit.",
            lambda worker: number(worker.stat("prefetch_count")),
        ),
        "celery_worker_uptime_seconds": (
            "Time since the worker was started.",
            lambda worker: number(worker.stat("uptime")),
        ),
        "celery_worker_resident_memory_peak_bytes": (
            "Largest resident memory of the worker's main process since it was started (Linux).",
            _Worker.peak_memory,
        ),
    },
    "queue_name": {
        "celery_queue_length": ("Messages that wait in the queue.", lambda queue: queue.length),
        "celery_active_consumer_count": (
            "Workers that answered and consume the queue.",
            lambda queue: None if queue.slots is None else len(queue.slots),
        ),
        "celery_active_process_count": (
            "Tasks that these workers can execute at the same time.",
            _Queue.all_slots,
        ),
    },
    "": {
        "celery_snapshot_duration_seconds": (
            "Time from the start of the snapshot until no more answers were waited for.",
            lambda families: families.report.elapsed,
        ),
        "celery_snapshot_workers_answered": (
            "Workers that answered.",
            lambda families: len(families.answered),
        ),
        "celery_snapshot_workers_missing": (
            "Workers that are known and did not answer everything that they were asked.",
            lambda families: len(families.report.missing),
        ),
        "celery_snapshot_subscribers_silent": (
            "Connections that listen on the workers' channel in Redis and did not answer, and for "
            "which no name of a worker fits.",
            lambda families: families.report.silent_subscribers,
        ),
        "celery_snapshot_replies_unreadable": (
            "Replies that this process may not or cannot read.",
            lambda families: families.report.unreadable,
        ),
        "celery_snapshot_names_omitted": (
            "Names of workers, tasks and queues that have no series, because there are too many "
            "or because another name has the same label.",
            lambda families: families.omitted,
        ),
    },
}


class _Families(Collector):
    """The metrics of one report. ``collect()`` may be called once."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.answered = answering(report.answers)
        self.omitted = 0

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples."""
        workers = dict(self._workers())
        yield from _gauges("hostname", workers)
        yield self._tasks(workers)
        yield from _gauges("queue_name", dict(self._queues()))
        yield from _gauges("", {"": self})

    def _workers(self) -> Iterator[tuple[str, _Worker]]:
        """Yield the label and the worker; those that answered come first."""
        answered = set(self.answered)
        silent = sorted(self.report.missing.keys() - answered)
        for label, name in self._labelled([*self.answered, *silent], WORKERS_EXPORTED):
            replies = replies_of(self.report.answers, name)
            yield label, _Worker(self.report, name, name in answered, replies)

    def _queues(self) -> Iterator[tuple[str, _Queue]]:
        lengths, consumers = self.report.queues or {}, self.report.consumers_by_queue
        stats = self.report.answers["stats"] or {}
        slots = {worker: number(slots_of(reply)) for worker, reply in stats.items()}
        is_asked = self.report.active_queues is not None
        is_known = is_asked and "workers" not in self.report.question.narrowed_by
        for label, name in self._labelled(dict.fromkeys([*lengths, *consumers]), QUEUES_EXPORTED):
            of_queue = [slots.get(worker) for worker in consumers.get(name, ())]
            yield label, _Queue(lengths.get(name), of_queue if is_known else None)

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
        answered = sum(worker.answered for worker in workers.values())
        limit = min(MAX_TASKS_OF_ONE_WORKER, MAX_TASKS_OF_ALL_WORKERS // max(answered, 1))
        for hostname, worker in workers.items():
            total = mapping(worker.stat("total"))
            for label, name in self._labelled(total, limit):
                value = number(total[name])
                # OpenMetrics forbids counters below zero.
                if value is not None and value >= 0:
                    family.add_metric((hostname, label), value)
        return family

    def _labelled(self, names: Iterable[str], limit: int) -> Iterator[tuple[str, str]]:
        """Yield the label and the name of the first names, each label once; count the rest.

        Two names can have the same label. Prometheus refuses the whole scrape if two samples have
        equal labels, so only the first of them is kept.
        """
        taken: set[str] = set()
        for name in names:
            if len(taken) < limit and (label := _label(name)) not in taken:
                taken.add(label)
                yield label, name
            else:
                self.omitted += 1


def _gauges(label_name: str, samples: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the gauges with a label.

    Args:
        label_name: that label.
        samples: the value of the label to what the gauges describe.
    """
    for name, (text, value_of) in _GAUGES[label_name].items():
        unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
        family = GaugeMetricFamily(name, text, labels=[label_name] * bool(label_name), unit=unit)
        for label, described in samples.items():
            value = value_of(described)
            if value is not None:
                family.add_metric([label] * bool(label_name), value)
        yield family


def _label(name: str) -> str:
    """Return a name as the value of a label.

    Control characters and characters that UTF-8 cannot encode are replaced. A name that is too
    long is cut and ends with its hash, so that long names that begin alike stay different.
    """
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", name.encode("utf-8", "replace").decode())
    if len(text) <= MAX_LABEL:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[: MAX_LABEL - 17]}…{digest}"
