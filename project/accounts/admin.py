"""Users in the admin site."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin

from .models import User


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    """Django's own, with ``is_support``."""

    list_display = ("username", "email", "is_active", "is_support", "is_staff")
    list_filter = ("is_active", "is_support", "is_staff", "groups")
    fieldsets = (*(DjangoUserAdmin.fieldsets or ()), ("Support", {"fields": ("is_support",)}))
