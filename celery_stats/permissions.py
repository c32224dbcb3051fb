"""Who may read the snapshot."""

from __future__ import annotations

from inspect import iscoroutinefunction, signature
from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView


class IsSupportUser(BasePermission):
    """Active users with ``is_staff`` or ``is_support``; user models may lack either.

    Where one of them is a method, its result counts. Only ``True`` itself lets somebody in:
    almost every object counts as true in Python, a method that was not called included.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        user = request.user
        return (
            _is_true(user, "is_authenticated")
            and _is_true(user, "is_active")
            and (_is_true(user, "is_staff") or _is_true(user, "is_support"))
        )


def can_be_called(method: Any) -> bool:
    """Whether a method answers without arguments and without an event loop."""
    try:
        signature(method).bind()
    except (TypeError, ValueError):  # ValueError: it has no signature, as some in C.
        return False
    return not iscoroutinefunction(method)


def _is_true(user: Any, name: str) -> bool:
    value = getattr(user, name, False)
    if callable(value):
        value = can_be_called(value) and value()
    return value is True
