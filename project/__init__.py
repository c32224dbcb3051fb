"""A Django project as one that uses ``celery_stats`` might look."""

from __future__ import annotations

from .celery import app as celery_app

__all__ = ["celery_app"]
