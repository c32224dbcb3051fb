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
        # Here, since Celery should not be imported before the project's own settings are.
        from . import worker

        worker.connect()


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    # Imported when it runs: the checks need most of REST framework, which costs a probe by the
    # command, and every worker, a tenth of a second of CPU.
    from . import checks

    return checks.check_settings(app_configs, **kwargs)
