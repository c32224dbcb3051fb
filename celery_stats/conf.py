"""The only reader of ``DRF_CELERY_STATS``.

Every property reads ``django.conf.settings`` when it is used, so that
``override_settings`` works and nothing is remembered between requests. The system checks
name what is wrong; as a project may silence them, every property checks its value again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import TIMEOUT_MAX
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .control.exceptions import CeleryStatsError

SETTING = "DRF_CELERY_STATS"

#: The query parameters of the contract.
PARAMETERS = ("task_id", "worker", "field")

DEFAULTS: dict[str, Any] = {
    "CELERY_APP": None,
    "TIMEOUT": 1.0,
    "DEADLINE": 5.0,
    "PERMISSION_CLASSES": ["celery_stats.permissions.IsSupportUser"],
    "AUTHENTICATION_CLASSES": None,
    "IGNORED_PARAMETERS": (),
    "REDACT": True,
    "HIDE_ARGUMENTS": False,
}


def is_possible_time(seconds: float) -> bool:
    """Whether the standard library can wait that long; NaN is no such number."""
    return 0 < seconds <= TIMEOUT_MAX


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_paths(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(path, str) for path in value)


def _is_paths_or_none(value: Any) -> bool:
    return value is None or _is_paths(value)


#: Setting -> what it accepts, and that in words.
def _is_names_of_others(value: Any) -> bool:
    return _is_paths(value) and not set(value) & set(PARAMETERS)


TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "CELERY_APP": (_is_text_or_none, "a dotted path or None"),
    "TIMEOUT": (_is_number, "a number of seconds"),
    "DEADLINE": (_is_number, "a number of seconds"),
    "PERMISSION_CLASSES": (_is_paths, "a list of dotted paths"),
    "AUTHENTICATION_CLASSES": (_is_paths_or_none, "a list of dotted paths or None"),
    "IGNORED_PARAMETERS": (
        _is_names_of_others,
        f"a list of names other than {', '.join(PARAMETERS)}",
    ),
    "REDACT": (_is_bool, "True or False"),
    "HIDE_ARGUMENTS": (_is_bool, "True or False"),
}


class WrongSetting(CeleryStatsError, ImproperlyConfigured):
    """``DRF_CELERY_STATS`` cannot be used as it is. Requests are answered 503."""


class Conf:
    """Typed access to the settings; see the README's table for each.

    Every property raises :class:`WrongSetting` where the project's value cannot be used.
    """

    def _get(self, key: str) -> Any:
        user_settings = getattr(settings, SETTING, {})
        if not isinstance(user_settings, Mapping):
            raise WrongSetting(f"{SETTING} should be a dict, not {user_settings!r}.")
        for unknown in user_settings.keys() - DEFAULTS.keys():
            # Not ignored: it may be a misspelt key that was meant to hide something.
            raise WrongSetting(f"{SETTING} has an unknown key {unknown!r}.")
        value = user_settings.get(key, DEFAULTS[key])
        accepts, expected = TYPES[key]
        if not accepts(value):
            raise WrongSetting(f"{SETTING}[{key!r}] should be {expected}, not {value!r}.")
        return value

    def _seconds(self, key: str) -> float:
        value = self._get(key)
        if not is_possible_time(value):
            raise WrongSetting(f"{SETTING}[{key!r}] should be a positive number, not {value}.")
        return float(value)

    @property
    def celery_app(self) -> str | None:
        """Dotted path of the Celery app (``"project.celery:app"``); None: the current app."""
        value: str | None = self._get("CELERY_APP")
        return value

    @property
    def timeout(self) -> float:
        """Seconds of silence after which workers that have not answered are given up."""
        return self._seconds("TIMEOUT")

    @property
    def deadline(self) -> float:
        """Seconds that a snapshot may take in all, connecting included."""
        return self._seconds("DEADLINE")

    @property
    def permission_classes(self) -> Sequence[str]:
        """Dotted paths of REST framework permission classes."""
        return list(self._get("PERMISSION_CLASSES"))

    @property
    def authentication_classes(self) -> Sequence[str] | None:
        """Dotted paths of REST framework authentication classes; None: its defaults."""
        value = self._get("AUTHENTICATION_CLASSES")
        return None if value is None else list(value)

    @property
    def ignored_parameters(self) -> frozenset[str]:
        """Names of query parameters that are not ours and are ignored."""
        return frozenset(self._get("IGNORED_PARAMETERS"))

    @property
    def redact(self) -> bool:
        """Whether credentials are masked."""
        value: bool = self._get("REDACT")
        return value

    @property
    def hide_arguments(self) -> bool:
        """Whether every task's ``args`` and ``kwargs`` are masked whole."""
        value: bool = self._get("HIDE_ARGUMENTS")
        return value


conf = Conf()
