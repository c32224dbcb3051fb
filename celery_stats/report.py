"""The snapshot as callers may see it: masked, JSON-safe, shared by simultaneous callers."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from .conf import SETTINGS, Conf, conf
from .control.configuration import find_app
from .control.exceptions import CeleryStatsError, SnapshotFailed
from .control.question import CeleryApp, Options, Question
from .control.queues import consumers_by_queue
from .control.snapshot import Snapshot, take_snapshot
from .masking.answers import jsonsafe, mask, safe_error
from .query import WrongQuestion, make_question
from .sharing import SingleFlight

#: Bytes of a body that may be indented. 100 levels of 8 spaces each make it 400 times as long.
MAX_INDENTED = 2**16


@dataclass(frozen=True)
class Report(Snapshot):
    """A snapshot as callers may see it: JSON-safe, and masked as the settings say.

    Shared between the callers that asked the same question at the same time, so nobody may change
    it.
    """

    _bodies: dict[int | None, bytes] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def consumers_by_queue(self) -> Mapping[str, Sequence[str]]:
        """The workers that consume each queue."""
        return consumers_by_queue(self.active_queues or {})

    def json(self, indent: int | None = None) -> bytes:
        """Return the answers as REST framework writes JSON.

        They are written once for each indentation. Otherwise the callers who share a report would
        hold as many copies of its body in memory.

        Args:
            indent: spaces for each level; None for the compact form. Large bodies are compact.
        """
        # Imported here, because the command as a probe has no use for it.
        from rest_framework.renderers import JSONRenderer

        if indent is not None and len(self.json()) > MAX_INDENTED:
            indent = None
        if indent not in self._bodies:
            self._bodies[indent] = JSONRenderer().render(self.answers, None, {"indent": indent})
        return self._bodies[indent]


@dataclass(frozen=True)
class ReportOptions(Options):
    """What a report depends on besides the question.

    Callers share a report if their questions and their options are equal. The work gets these two
    and nothing else, so that nothing it depends on can be left out of the comparison.

    Attributes:
        redact: whether credentials are masked.
        hide_arguments: whether the arguments of tasks are masked whole.
    """

    redact: bool
    hide_arguments: bool

    @classmethod
    def from_conf(
        cls, conf: Conf, *, app: CeleryApp | None = None, timeout: float | None = None
    ) -> ReportOptions:
        """Return the options that the settings describe.

        Args:
            conf: the settings.
            app: the Celery app, or its dotted path, instead of the setting's.
            timeout: seconds of silence to allow instead of the setting's.

        Raises:
            WrongSetting: a setting cannot be used.
            WrongQuestion: ``timeout`` is no positive number of seconds.
        """
        setting = SETTINGS["TIMEOUT"]
        if not (timeout is None or setting.accepts(timeout)):
            raise WrongQuestion({"timeout": f"Should be {setting.expected}."})
        return cls(
            # The current app may be another one in the thread that does the work.
            app=app or conf.celery_app or find_app(None),
            timeout=conf.timeout if timeout is None else timeout,
            deadline=conf.deadline,
            redact=conf.redact,
            hide_arguments=conf.hide_arguments,
        )


_single_flight: SingleFlight[Report] = SingleFlight()


def reason(exc: CeleryStatsError) -> str:
    """Return an exception's type and message, without the passwords of the broker."""
    return safe_error(exc, exc.urls)


def get_report(
    *,
    fields: Sequence[str] = (),
    workers: Sequence[str] = (),
    task_ids: Sequence[str] = (),
    app: CeleryApp | None = None,
    timeout: float | None = None,
) -> Report:
    """Ask the workers, and return what they answered, masked as the settings say.

    It needs no request, and checks no permission: decide before the call who may see the result.
    Callers in one process that ask the same at the same time share one report, so nobody may
    change it. It may be called from a view, a task, a command or a shell, by any thread. It blocks
    until every worker has answered, for the setting ``TIMEOUT`` if one does not, and for
    ``DEADLINE`` at most.

    Args:
        fields: those of the six keys to ask for, ``"active"`` and ``"stats"`` for example; empty:
            all. Under the others, ``answers`` has None.
        workers: the full names of the workers to ask; empty: all.
        task_ids: the tasks to look up. What is known of them stands under ``"query_task"``.
        app: the Celery app or its dotted path, instead of the setting ``CELERY_APP``.
        timeout: seconds of silence after which workers are given up, instead of the setting.

    Raises:
        BrokerUnavailable: the broker cannot be reached, or does not answer.
        RemoteControlUnsupported: its transport cannot send commands to workers.
        CeleryAppNotFound: there is no such Celery app.
        WrongQuestion: an argument is not accepted; it is a ValueError, too.
        WrongSetting: a setting cannot be used.
        SnapshotFailed: an unexpected error.
        CeleryStatsError: the base class of all of these. Nothing else is raised.
    """
    question = make_question({"task_id": task_ids, "worker": workers, "field": fields})
    return share_report(question, ReportOptions.from_conf(conf, app=app, timeout=timeout))


def share_report(question: Question, options: ReportOptions) -> Report:
    """Ask the workers, or share the next answer to the same question.

    Raises:
        CeleryStatsError: no snapshot could be taken.
    """
    key = (question, options)
    return _single_flight.get(key, partial(_take, *key), deadline=options.deadline)


def _take(question: Question, options: ReportOptions, remaining: float) -> Report:
    """Take a snapshot and make a report of it. It must depend on its arguments alone.

    Raises:
        CeleryStatsError: no snapshot could be taken. Its text is masked, and no exception is
            chained to it, because the frames of that one hold the URL of the broker.
    """
    error: CeleryStatsError
    try:
        return _make_report(take_snapshot(question, options, remaining), options)
    except CeleryStatsError as exc:
        error = type(exc)(reason(exc).removeprefix(f"{type(exc).__name__}: "))
    # The boundary: callers get a CeleryStatsError, whatever the error is. A module of the project
    # may raise SystemExit when it is imported, which would end this thread without a word.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        frames = [
            f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(exc.__traceback__)
        ]
        error = SnapshotFailed(f"{safe_error(exc)} ({' > '.join(frames)})")
    raise error


def _make_report(snapshot: Snapshot, options: ReportOptions) -> Report:
    """Return a snapshot as callers may see it.

    What is hidden from callers is hidden here, in each attribute that tells it: answers, missing,
    queues, active_queues and extras.
    """
    answers = mask(snapshot.answers, redact=options.redact, hide_arguments=options.hide_arguments)
    return Report(
        answers=answers,
        # Converted like the keys of the answers, because a name may hold what UTF-8 cannot.
        missing={jsonsafe(worker): fields for worker, fields in snapshot.missing.items()},
        taken_at=snapshot.taken_at,
        elapsed=snapshot.elapsed,
        queues=jsonsafe(snapshot.queues),
        question=snapshot.question,
        active_queues=jsonsafe(snapshot.active_queues),
        extras={jsonsafe(worker): extras for worker, extras in snapshot.extras.items()},
        silent_subscribers=snapshot.silent_subscribers,
        unreadable=snapshot.unreadable,
        keeps_names=snapshot.keeps_names,
        # Not masked: it holds states, times and names of queues alone.
        traces=snapshot.traces,
    )
