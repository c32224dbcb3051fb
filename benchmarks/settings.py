"""A small project that uses REST framework, for ``DJANGO_SETTINGS_MODULE``."""

from __future__ import annotations

SECRET_KEY = "benchmarks"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"]
