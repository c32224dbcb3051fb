"""Decides who may read the snapshot."""

from __future__ import annotations

from inspect import iscoroutinefunction, signature
from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView


class IsSupportUser(BasePermission):
    """Lets in active users with ``is_staff`` or ``is_support``. A user model may lack either.

    Where one of them is a method, its result counts. Only ``True`` itself lets somebody in,
    because almost every object counts as true in Python, even a method that was not called.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        user = request.user
        return (
            _is_true(user, "is_authenticated")
            and _is_true(user, "is_active")
            and (_is_true(user, "is_staff") or _is_true(user, "is_support"))
        )


def can_be_called(method: Any) -> bool:
    """Return whether a method can be called without arguments and without an event loop."""
    try:
        signature(method).bind()
    except (TypeError, ValueError):  # ValueError: some callables in C have no signature.
        return False
    return not iscoroutinefunction(method)


def _is_true(user: Any, name: str) -> bool:
    """Return whether an attribute is ``True``, or a method that returns ``True``."""
    value = getattr(user, name, False)
    if callable(value):
        value = can_be_called(value) and value()
    return value is True
