"""The project's users."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Holds the user model."""

    name = "project.accounts"
