"""The URLs of the app: one path, which a project includes under a prefix of its choice."""

from __future__ import annotations

from django.urls import path

from .views import CeleryStatsView

app_name = "celery_stats"

urlpatterns = [path("celery-stats/", CeleryStatsView.as_view(), name="snapshot")]
