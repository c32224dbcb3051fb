"""A snapshot of every Celery worker behind one REST endpoint, and from Python.

The names in ``__all__`` are what other code may use. They are imported when they are first used,
because Django imports this module before its settings are complete.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "BrokerUnavailable",
    "CeleryAppNotFound",
    "CeleryStatsError",
    "RemoteControlUnsupported",
    "Report",
    "SnapshotFailed",
    "WrongQuestion",
    "WrongSetting",
    "get_report",
]

if TYPE_CHECKING:
    from .conf import WrongSetting
    from .control.exceptions import (
        BrokerUnavailable,
        CeleryAppNotFound,
        CeleryStatsError,
        RemoteControlUnsupported,
        SnapshotFailed,
    )
    from .query import WrongQuestion
    from .report import Report, get_report
else:
    _MODULES = {
        **dict.fromkeys(__all__, "control.exceptions"),
        "Report": "report",
        "WrongQuestion": "query",
        "WrongSetting": "conf",
        "get_report": "report",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
