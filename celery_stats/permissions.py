"""Who may read the snapshot."""

from __future__ import annotations

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView


class IsSupportUser(BasePermission):
    """Active users with ``is_staff`` or ``is_support``; user models may lack either."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        user = request.user
        return bool(
            user
            and user.is_authenticated
            and user.is_active
            and (getattr(user, "is_staff", False) or getattr(user, "is_support", False))
        )
