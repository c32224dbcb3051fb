from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from rest_framework.test import APIClient

from celery_stats.permissions import IsSupportUser
from celery_stats.views import CeleryStatsView
from tests.brokers import MakeBroker, Use


class Caller:
    """An active user of a project's own making."""

    is_authenticated: Any = True
    is_active: Any = True

    def __init__(self, **flags: Any) -> None:
        vars(self).update(flags)


class Agent(Caller):
    """One whose support flag is a method."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def is_support(self) -> Any:
        return self.answer


class Sorted(Caller):
    """One whose method of that name means something else."""

    def is_support(self, ticket: int) -> bool:
        return True


class Awaited(Caller):
    async def is_support(self) -> bool:
        return True


def may_read(user: Any) -> bool:
    request: Any = SimpleNamespace(user=user)
    return IsSupportUser().has_permission(request, CeleryStatsView())


@pytest.mark.parametrize(
    "user",
    [
        Caller(is_staff=True),
        Caller(is_support=True),
        Caller(is_staff=False, is_support=True),
        Caller(is_staff=lambda: True),
        Caller(is_support=lambda: True),
        Caller(is_support=lambda strict=True: strict),
        Caller(is_support=lambda: True, is_active=lambda: True, is_authenticated=lambda: True),
        Agent(True),
    ],
)
def test_has_permission__true__let_in(user: Any) -> None:
    assert may_read(user) is True


@pytest.mark.parametrize(
    "user",
    [
        None,
        AnonymousUser(),
        Caller(),
        Caller(is_staff=False, is_support=False),
        Caller(is_superuser=True),
        Caller(is_support=None),
        Caller(is_support=""),
        Caller(is_support="no"),
        Caller(is_support=1),
        Caller(is_support=object()),
        Caller(is_support=lambda: False),
        Caller(is_support=lambda: None),
        Caller(is_support=lambda: "yes"),
        Caller(is_support=lambda: lambda: True),
        Caller(is_support=lambda ticket: True),
        Caller(is_staff=lambda: False),
        Caller(is_staff=lambda site: True),
        Caller(is_staff=True, is_active=False),
        Caller(is_staff=True, is_active=lambda: False),
        Caller(is_staff=True, is_authenticated=False),
        Caller(is_staff=True, is_authenticated=lambda: False),
        SimpleNamespace(is_staff=True, is_authenticated=True),
        Agent(False),
        Agent(None),
        Sorted(),
        Awaited(),
    ],
)
def test_has_permission__anything_else__refused(user: Any) -> None:
    assert may_read(user) is False


@pytest.mark.parametrize(
    ("user", "status"), [(Agent(True), 200), (Agent(False), 403), (Sorted(), 403)]
)
def test_get__flag_that_is_a_method(
    user: Any, status: int, make_broker: MakeBroker, use: Use
) -> None:
    use(make_broker())
    client = APIClient()
    client.force_authenticate(user)
    assert client.get("/api/celery-stats/").status_code == status
