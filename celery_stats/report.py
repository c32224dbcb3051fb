"""The snapshot as callers may see it: masked, JSON-safe, shared by those who ask together."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field
from functools import partial

from .conf import Conf
from .control.configuration import find_app
from .control.exceptions import CeleryStatsError, SnapshotFailed
from .control.question import CeleryApp, Options, Question
from .control.snapshot import Snapshot, take_snapshot
from .masking.answers import mask, safe_error
from .masking.jsonsafe import jsonsafe
from .sharing import SingleFlight

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report(Snapshot):
    """A snapshot as callers may see it: JSON-safe, and masked as the settings say.

    Shared between the callers that asked the same question together, so nobody may change it.
    """

    _bodies: dict[int | None, bytes] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def json(self, indent: int | None = None) -> bytes:
        """Return the answers as REST framework writes JSON.

        They are written once for each indentation. Otherwise the callers who share a report would
        hold as many copies of its body in memory.

        Args:
            indent: spaces for each level; None for the compact form.
        """
        # Imported here, because the command as a probe has no use for it.
        from rest_framework.renderers import JSONRenderer

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

    redact: bool = True
    hide_arguments: bool = False

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
            CeleryStatsError: a setting is wrong; this has been logged.
        """
        try:
            return cls(
                # The current app may be another one in the thread that does the work.
                app=app or conf.celery_app or find_app(None),
                timeout=conf.timeout if timeout is None else timeout,
                deadline=conf.deadline,
                redact=conf.redact,
                hide_arguments=conf.hide_arguments,
            )
        except CeleryStatsError as exc:
            logger.error("No snapshot: %s", reason(exc))
            raise


_single_flight: SingleFlight[Report] = SingleFlight()


def reason(exc: BaseException) -> str:
    """Return an exception's type and message, without the passwords of the broker."""
    return safe_error(exc, getattr(exc, "urls", ()))


def get_report(question: Question, options: ReportOptions) -> Report:
    """Ask the workers, or share the next answer to the same question.

    Raises:
        CeleryStatsError: no snapshot could be taken; the cause has been logged.
    """
    key = (question, options)
    return _single_flight.get(key, partial(_take, *key), deadline=options.deadline)


def _take(question: Question, options: ReportOptions, remaining: float) -> Report:
    """Take a snapshot and make it fit to be seen. It must depend on its arguments alone."""
    try:
        snapshot = take_snapshot(question, options, remaining=remaining)
        return _fit_to_be_seen(snapshot, options)
    except CeleryStatsError as exc:
        logger.warning("No snapshot: %s", reason(exc))
        raise
    # The boundary: callers get a 503, whatever the error is. A module of the project may raise
    # SystemExit when it is imported, which would end this thread without a log line.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        # Without exc_info and source lines, because both may hold a broker's URL.
        stack = traceback.extract_tb(exc.__traceback__)
        frames = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in stack)
        logger.error("No snapshot, unexpectedly: %s%s", reason(exc), frames)
        raise SnapshotFailed(type(exc).__name__) from None


def _fit_to_be_seen(snapshot: Snapshot, options: ReportOptions) -> Report:
    """Return a report. What is hidden from callers is hidden in answers, missing and queues."""
    answers = mask(snapshot.answers, redact=options.redact, hide_arguments=options.hide_arguments)
    return Report(
        answers=answers,
        # Converted like the keys of the answers, because a name may hold what UTF-8 cannot.
        missing={jsonsafe(worker): fields for worker, fields in snapshot.missing.items()},
        taken_at=snapshot.taken_at,
        elapsed=snapshot.elapsed,
        queues=jsonsafe(snapshot.queues),
        question=snapshot.question,
        consumers=jsonsafe(snapshot.consumers),
        clocks={jsonsafe(worker): clock for worker, clock in snapshot.clocks.items()},
        unnamed=snapshot.unnamed,
        unreadable=snapshot.unreadable,
    )
