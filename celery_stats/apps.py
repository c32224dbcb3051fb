from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register


class CeleryStatsConfig(AppConfig):
    name = "celery_stats"
    verbose_name = "Celery statistics"

    def ready(self) -> None:
        # Here, since the checks know REST framework's classes, which need the settings.
        from . import worker
        from .checks import check_settings

        register(check_settings, Tags.security)
        worker.connect()
