"""One path, to be included wherever the project keeps its API."""

from __future__ import annotations

from django.urls import path

from .views import CeleryStatsView

app_name = "celery_stats"

urlpatterns = [path("celery-stats/", CeleryStatsView.as_view(), name="snapshot")]
