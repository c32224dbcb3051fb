"""The snapshot as callers may see it: shared among those who ask together, masked, JSON-safe."""

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
from .jsonsafe import jsonsafe
from .redaction import mask, safe_error
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

        Written once for each indentation: callers who share a report would otherwise hold as
        many copies of its body in memory.

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
    """What a report depends on besides the question. Equal ones are shared.

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
        """Return what the settings say.

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
    """Return an exception's type and words, without the passwords of the broker."""
    return safe_error(exc, getattr(exc, "urls", ()))


def get_report(question: Question, options: ReportOptions) -> Report:
    """Ask the workers, or share the next answer to the same question.

    Raises:
        CeleryStatsError: no snapshot could be taken; the cause has been logged.
    """
    work = partial(_take, question, options)
    return _single_flight.get((question, options), work, deadline=options.deadline)


def _take(question: Question, options: ReportOptions, remaining: float) -> Report:
    """Take a snapshot and make it fit to be seen. Depends on its arguments alone: see the key."""
    try:
        snapshot = take_snapshot(question, options, remaining=remaining)
        return _fit_to_be_seen(snapshot, options)
    except CeleryStatsError as exc:
        logger.warning("No snapshot: %s", reason(exc))
        raise
    # The boundary: whatever it is, callers get a 503. SystemExit is what a module may
    # raise when it is imported; it would end this thread alone, without a log line.
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        # Neither exc_info nor source lines: both may hold a broker's URL.
        stack = traceback.extract_tb(exc.__traceback__)
        frames = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in stack)
        logger.error("No snapshot, unexpectedly: %s%s", reason(exc), frames)
        raise SnapshotFailed(type(exc).__name__) from None


def _fit_to_be_seen(snapshot: Snapshot, options: ReportOptions) -> Report:
    return Report(
        answers=mask(
            snapshot.answers, redact=options.redact, hide_arguments=options.hide_arguments
        ),
        # Under the names that the answers have: a worker's may hold what UTF-8 cannot carry.
        missing={jsonsafe(worker): fields for worker, fields in snapshot.missing.items()},
        taken_at=snapshot.taken_at,
        elapsed=snapshot.elapsed,
        queues=jsonsafe(snapshot.queues),
    )
