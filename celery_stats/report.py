"""The snapshot as callers may see it: shared among those who ask together, masked, JSON-safe."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from .conf import Conf
from .control.broker import find_app
from .control.exceptions import CeleryStatsError, SnapshotFailed
from .control.question import CeleryApp, Options, Question
from .control.snapshot import take_snapshot
from .jsonsafe import jsonsafe
from .redaction import mask, safe_error
from .sharing import Sharing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What is answered to a question.

    Shared between the callers that asked it together, so nobody may change it.

    Attributes:
        data: the six keys in order, JSON-safe and masked as the settings say.
        missing: worker name to the fields that it did not answer.
        taken_at: when the workers were asked, in UTC.
        elapsed: seconds from the call to the end of listening.
        queues: queue name to the messages that wait in it; None where they were not asked for.
        bodies: the data as JSON, by its indentation, once somebody has asked for it.
    """

    data: dict[str, Any]
    missing: Mapping[str, tuple[str, ...]]
    taken_at: datetime
    elapsed: float
    queues: Mapping[str, int] | None = None
    bodies: dict[int | None, bytes] = field(default_factory=dict, repr=False, compare=False)


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


_sharing: Sharing[Report] = Sharing()


def reason(exc: BaseException) -> str:
    """Return an exception's type and words, without the passwords of the broker."""
    return safe_error(exc, getattr(exc, "urls", ()))


def get_report(question: Question, options: ReportOptions) -> Report:
    """Ask the workers, or share the next answer to the same question.

    Raises:
        CeleryStatsError: no snapshot could be taken; the cause has been logged.
    """
    work = partial(_take, question, options)
    return _sharing.get((question, options), work, deadline=options.deadline)


def _take(question: Question, options: ReportOptions, remaining: float) -> Report:
    """Take a snapshot and make it fit to be seen. Depends on its arguments alone: see the key."""
    try:
        snapshot = take_snapshot(question, options, remaining=remaining)
        data = mask(snapshot.answers, redact=options.redact, hide_arguments=options.hide_arguments)
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
    # By the names that stand in the data: a worker's may hold what UTF-8 cannot carry.
    missing = {jsonsafe(worker): fields for worker, fields in snapshot.missing.items()}
    return Report(data, missing, snapshot.taken_at, snapshot.elapsed, jsonsafe(snapshot.queues))
