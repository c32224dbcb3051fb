"""The only reader of ``DRF_CELERY_STATS``.

Every property reads ``django.conf.settings`` when it is used, so that
``override_settings`` works and nothing is remembered between requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

SETTING = "DRF_CELERY_STATS"

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


class Conf:
    """Typed access to the settings; see the README's table for each."""

    @property
    def user_settings(self) -> Mapping[str, Any]:
        """The project's own dict; empty where there is none."""
        value = getattr(settings, SETTING, {})
        return value if isinstance(value, Mapping) else {}

    def _get(self, key: str) -> Any:
        return self.user_settings.get(key, DEFAULTS[key])

    @property
    def celery_app(self) -> str | None:
        """Dotted path of the Celery app (``"project.celery:app"``); None: the current app."""
        value: str | None = self._get("CELERY_APP")
        return value

    @property
    def timeout(self) -> float:
        """Seconds of silence after which workers that have not answered are given up."""
        return float(self._get("TIMEOUT"))

    @property
    def deadline(self) -> float:
        """Seconds that a snapshot may take in all, connecting included."""
        return float(self._get("DEADLINE"))

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
        return bool(self._get("REDACT"))

    @property
    def hide_arguments(self) -> bool:
        """Whether every task's ``args`` and ``kwargs`` are masked whole."""
        return bool(self._get("HIDE_ARGUMENTS"))


conf = Conf()
