"""The same project with the app."""

from __future__ import annotations

from benchmarks import settings

SECRET_KEY = settings.SECRET_KEY
INSTALLED_APPS = [*settings.INSTALLED_APPS, "celery_stats"]
