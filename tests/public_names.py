"""Code as a project has it. It is not run: mypy checks it against the built wheel.

mypy fails where a name is missing, has no type, or has another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import celery_stats
from celery_stats import (
    BrokerUnavailable,
    CeleryAppNotFound,
    CeleryStatsError,
    RemoteControlUnsupported,
    Report,
    SnapshotFailed,
    WrongQuestion,
    WrongSetting,
    get_report,
)

version: str = celery_stats.__version__


def busy(workers: list[str]) -> int:
    try:
        report = get_report(
            fields=("active",), workers=workers, task_ids=[], app="shop.celery:app", timeout=0.5
        )
    except (BrokerUnavailable, RemoteControlUnsupported, CeleryAppNotFound):
        return -1
    except WrongQuestion as exc:
        errors: Mapping[str, str] = exc.errors
        return -len(errors)
    except (WrongSetting, SnapshotFailed, CeleryStatsError) as exc:
        raise RuntimeError(str(exc)) from None
    return count(report)


def count(report: Report) -> int:
    active: Mapping[str, Any] | None = report.answers["active"]
    missing: Mapping[str, tuple[str, ...]] = report.missing
    taken_at: datetime = report.taken_at
    elapsed: float = report.elapsed
    body: bytes = report.json()
    get_report(colour="red")  # type: ignore[call-arg]
    report.answers = {}  # type: ignore[misc]
    return len(active or ()) + len(missing) + taken_at.year + int(elapsed) + len(body)
