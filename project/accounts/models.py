"""A user model of the project's own."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """Django's user, and whether they belong to the support team."""

    is_support = models.BooleanField(
        "support status",
        default=False,
        help_text="Designates whether the user may see what the Celery workers are doing.",
    )
