"""The Django app. It registers the system checks and, in a worker, the worker's command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, register


class CeleryStatsConfig(AppConfig):
    name = "celery_stats"
    verbose_name = "Celery statistics"

    def ready(self) -> None:
        register(check_settings, Tags.security)
        register(check_urls, Tags.urls)
        # Imported here, because Celery should be imported after the project's settings.
        from . import worker

        worker.connect()


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    # Imported when the checks run, because they need most of REST framework. That costs a tenth of
    # a second of CPU, which each worker and each run of the command would pay as well.
    from . import checks

    return checks.check_settings(app_configs, **kwargs)


def check_urls(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    from . import checks  # Imported here for the same reason.

    return checks.check_urls(app_configs, **kwargs)
