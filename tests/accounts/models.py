"""A customer's user model: Django's, and a flag for support."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    is_support = models.BooleanField(default=False)

    class Meta:
        app_label = "accounts"
