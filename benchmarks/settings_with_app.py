"""The same project with the app."""

from __future__ import annotations

from benchmarks import settings_without_app as without_app

SECRET_KEY = without_app.SECRET_KEY
INSTALLED_APPS = [*without_app.INSTALLED_APPS, "celery_stats"]
