"""The system checks: which message each wrong setting gets, and a path that is not reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage, Tags, registry, run_checks
from django.core.management import call_command
from django.test import override_settings
from django.urls import include, path, re_path, set_script_prefix
from django.urls.resolvers import RoutePattern, URLResolver
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import AllowAny, IsAdminUser

from celery_stats.checks import check_settings, check_urls
from celery_stats.conf import DEFAULTS
from celery_stats.permissions import IsSupportUser
from celery_stats.query import PARAMETERS
from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.celery_app import make_app
from tests.test_conf import WRONG_BY_CHECK

SESSION = "rest_framework.authentication.SessionAuthentication"
TOKEN = "rest_framework.authentication.TokenAuthentication"
ALLOW_ANY = "rest_framework.permissions.AllowAny"

AdminAndAny = IsAdminUser & AllowAny
NotAny = ~AllowAny


class ButMe(AllowAny):
    def has_permission(self, request: Any, view: Any) -> bool:
        return False


class OwnSupport(IsSupportUser):
    def has_permission(self, request: Any, view: Any) -> bool:
        return False


class ByStructure:
    """A class without REST framework's base classes, for authentication and permissions."""

    def authenticate(self, request: Any) -> None:
        return None

    def has_permission(self, request: Any, view: Any) -> bool:
        return False


class Mute(BaseAuthentication):
    def authenticate(self, request: Any) -> None:
        return None


an_instance = ButMe()
not_an_app = ("neither", "an", "app")
deaf = make_app({"worker_enable_remote_control": False})


def here(name: str) -> str:
    return f"{__name__}.{name}"


def check(value: Any, **settings: Any) -> list[CheckMessage]:
    with override_settings(DRF_CELERY_STATS=value, **settings):
        return check_settings(None)


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).removeprefix("celery_stats.") for message in messages]


def test_check_settings__defaults__pass(settings: Any) -> None:
    assert check(DEFAULTS) == []
    assert check({}) == []
    del settings.DRF_CELERY_STATS
    assert check_settings(None) == []


def test_check_settings__defaults_of_rest_framework__pass() -> None:
    assert check({}, REST_FRAMEWORK={}) == []


def test_check_settings__is_registered() -> None:
    checks = [c for c in registry.registry.get_checks() if c.__module__ == "celery_stats.apps"]
    assert sorted(c.__name__ for c in checks) == ["check_settings", "check_urls"]
    with override_settings(DRF_CELERY_STATS={"TIMEOUT": 0}):
        assert "E004" in ids(run_checks(tags=[Tags.security]))
    with override_settings(ROOT_URLCONF=(FRONT_END, ENDPOINT)):
        assert "W004" in ids(run_checks(tags=[Tags.urls]))


def test_check_settings__command__silent(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check", fail_level="DEBUG")
    printed = capsys.readouterr()
    assert "celery_stats" not in printed.out + printed.err


def test_ready__only_registers_the_checks() -> None:
    config = apps.get_app_config("celery_stats")
    before = set(registry.registry.registered_checks)
    config.ready()
    assert set(registry.registry.registered_checks) == before
    assert config.verbose_name
    assert Path(config.path).name == "celery_stats"


@pytest.mark.parametrize(
    "value",
    [
        {"CELERY_APP": "tests.celery_app:app"},
        {"CELERY_APP": "tests.celery_app.app"},
        {"TIMEOUT": 2, "DEADLINE": 2},
        {"TIMEOUT": 0.01},
        {"DEADLINE": 10**6},
        {"REDACT": False, "HIDE_ARGUMENTS": True},
        {"PERMISSION_CLASSES": (ALLOW_ANY, "rest_framework.permissions.IsAdminUser")},
        {"PERMISSION_CLASSES": [here("ButMe")]},
        {"PERMISSION_CLASSES": [here("AdminAndAny")]},
        {"PERMISSION_CLASSES": [here("NotAny")]},
        {"PERMISSION_CLASSES": [here("ByStructure")]},
        {"AUTHENTICATION_CLASSES": [TOKEN]},
        {"IGNORED_PARAMETERS": ("x-auth-token", "_")},
        {"AUTHENTICATION_CLASSES": (SESSION, TOKEN)},
        {"AUTHENTICATION_CLASSES": [TOKEN, here("ByStructure")]},
    ],
    ids=repr,
)
def test_check_settings__right__pass(value: Any) -> None:
    assert check(value) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, check) for check, values in WRONG_BY_CHECK.items() for value in values),
        # More than the whole may take.
        ({"TIMEOUT": 3, "DEADLINE": 2}, "E005"),
        ({"TIMEOUT": 6}, "E005"),
        ({"DEADLINE": 0.5}, "E005"),
        # No Celery app.
        ({"CELERY_APP": here("deaf")}, "W005"),
        ({"CELERY_APP": ""}, "E006"),
        ({"CELERY_APP": ".celery:app"}, "E006"),
        ({"CELERY_APP": "nowhere.celery:app"}, "E006"),
        ({"CELERY_APP": "tests.celery_app:nothing"}, "E006"),
        ({"CELERY_APP": "tests.celery_app"}, "E006"),
        ({"CELERY_APP": here("not_an_app")}, "E006"),
        ({"CELERY_APP": f"{__name__}:not_an_app"}, "E006"),
        ({"CELERY_APP": "tests.exits_when_imported:app"}, "E006"),
        # Paths that do not import.
        ({"PERMISSION_CLASSES": [""]}, "E007"),
        ({"PERMISSION_CLASSES": ["IsAdminUser"]}, "E007"),
        ({"PERMISSION_CLASSES": ["nowhere.IsAdminUser"]}, "E007"),
        ({"PERMISSION_CLASSES": [here("Nothing")]}, "E007"),
        ({"PERMISSION_CLASSES": ["..relative.IsAdminUser"]}, "E007"),
        ({"AUTHENTICATION_CLASSES": ["rest_framework.authentication.Tokens"]}, "E007"),
        ({"AUTHENTICATION_CLASSES": [SESSION, "nowhere.Token"]}, "E007"),
        ({"PERMISSION_CLASSES": ["tests.exits_when_imported.A"]}, "E007"),
        # Classes of another kind.
        ({"PERMISSION_CLASSES": [TOKEN]}, "E008"),
        ({"PERMISSION_CLASSES": [ALLOW_ANY, here("here")]}, "E008"),
        ({"PERMISSION_CLASSES": [here("an_instance")]}, "E008"),
        ({"PERMISSION_CLASSES": ["tests.test_conf.NeedsAName"]}, "E008"),
        ({"AUTHENTICATION_CLASSES": [ALLOW_ANY]}, "E008"),
        ({"AUTHENTICATION_CLASSES": [here("not_an_app")]}, "E008"),
        # Parameters of the endpoint itself.
        *(({"IGNORED_PARAMETERS": ["_", name]}, "E009") for name in PARAMETERS),
        # Open to everyone.
        ({"PERMISSION_CLASSES": []}, "W001"),
        ({"PERMISSION_CLASSES": [ALLOW_ANY]}, "W001"),
        ({"PERMISSION_CLASSES": [ALLOW_ANY, ALLOW_ANY]}, "W001"),
        ({"PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"]}, "W001"),
        # No challenge.
        ({"AUTHENTICATION_CLASSES": []}, "W002"),
        ({"AUTHENTICATION_CLASSES": [SESSION]}, "W002"),
        ({"AUTHENTICATION_CLASSES": [here("Mute"), here("ByStructure")]}, "W002"),
    ],
    ids=repr,
)
def test_check_settings__wrong__one_message(value: Any, expected: str) -> None:
    messages = check(value)
    assert ids(messages) == [expected]
    assert messages[0].hint
    assert messages[0].is_serious() == expected.startswith("E")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"TIMEOUT": "1"}, "['TIMEOUT'] should be a positive number of seconds, not '1'."),
        ({"DEADLINE": -1.5}, "['DEADLINE'] should be a positive number of seconds, not -1.5."),
        ({"REDACT": 1}, "['REDACT'] should be True or False, not 1."),
        ({"CELERY_APP": 1}, "['CELERY_APP'] should be a dotted path or None, not 1."),
        (
            {"IGNORED_PARAMETERS": ["_", "field"]},
            "['IGNORED_PARAMETERS'] names field, which the endpoint reads.",
        ),
        (
            {"PERMISSION_CLASSES": [TOKEN]},
            f"['PERMISSION_CLASSES'] names '{TOKEN}', which is not a class that has "
            "has_permission() and is made without arguments.",
        ),
        (
            {"AUTHENTICATION_CLASSES": [ALLOW_ANY]},
            f"['AUTHENTICATION_CLASSES'] names '{ALLOW_ANY}', which is not a class that has "
            "authenticate() and is made without arguments.",
        ),
    ],
    ids=repr,
)
def test_check_settings__wrong__says_what_is_expected(value: Any, message: str) -> None:
    assert [found.msg for found in check(value)] == [f"DRF_CELERY_STATS{message}"]


def with_argument(self: Any, ticket: int) -> bool:
    return True


async def awaited(self: Any) -> bool:
    return True


def plain(self: Any, strict: bool = True) -> bool:
    return strict


@pytest.mark.parametrize("name", ["is_staff", "is_support"])
@pytest.mark.parametrize("method", [with_argument, awaited, classmethod(with_argument)])
def test_check_settings__user_model_whose_flag_cannot_be_called__w003(
    method: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, name, method)
    (message,) = check({})
    assert message.id == "celery_stats.W003"
    assert message.obj is User
    assert f"User.{name}()" in message.msg
    assert "PERMISSION_CLASSES" in str(message.hint)
    # No permission class reads the flag.
    assert check({"PERMISSION_CLASSES": [here("ButMe"), here("OwnSupport")]}) == []


@pytest.mark.parametrize("method", [plain, staticmethod(lambda: True), property(plain)])
def test_check_settings__user_model_whose_flag_is_a_method__pass(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "is_support", method)
    assert check({}) == []


def test_check_settings__user_model_that_does_not_exist__pass(settings: Any) -> None:
    settings.AUTH_USER_MODEL = "nowhere.User"
    assert check({}) == []


def test_check_settings__no_challenge_by_the_projects_defaults__w002() -> None:
    rest = {"DEFAULT_AUTHENTICATION_CLASSES": [SESSION]}
    assert ids(check({}, REST_FRAMEWORK=rest)) == ["W002"]
    assert ids(check({"AUTHENTICATION_CLASSES": [TOKEN]}, REST_FRAMEWORK=rest)) == []


@pytest.mark.parametrize(
    ("key", "near"),
    [("TIME_OUT", "TIMEOUT"), ("redact", "REDACT"), ("PERMISION_CLASSES", "PERMISSION_CLASSES")],
)
def test_check_settings__misspelt_key__nearest_known(key: str, near: str) -> None:
    (message,) = check({key: 1})
    assert message.hint == f"Did you mean {near!r}?"


def test_check_settings__unknown_key__all_known() -> None:
    (message,) = check({"COLOUR": 1})
    assert all(name in message.hint for name in DEFAULTS)


def test_check_settings__several_mistakes__a_message_for_each() -> None:
    value = {
        "COLOUR": 1,
        "REDACT": 1,
        "TIMEOUT": 0,
        "DEADLINE": -1,
        "PERMISSION_CLASSES": ["nowhere.A", TOKEN],
    }
    assert sorted(ids(check(value))) == ["E002", "E003", "E004", "E004", "E007", "E008"]


def front_end(request: Any) -> None:
    raise NotImplementedError


class OwnView(CeleryStatsView):
    pass


class AtTimes(RoutePattern):
    """A pattern that depends on more than the path, and does not match now."""

    def match(self, path: str) -> None:
        return None


ENDPOINT = path("api/", include("celery_stats.urls"))
RENAMED = path("internal/", include("celery_stats.urls", namespace="internal"))
NESTED = path("v1/", include(([ENDPOINT], "v1")))
CONDITIONAL = URLResolver(
    AtTimes("api/"), "celery_stats.urls", app_name="celery_stats", namespace="celery_stats"
)
FRONT_END = re_path("", front_end)
OWN_VIEW = path("api/celery-stats/", OwnView.as_view())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((FRONT_END, ENDPOINT), "/api/celery-stats/"),
        ((FRONT_END, RENAMED), "/internal/celery-stats/"),
    ],
)
def test_check_urls__another_pattern_matches_first__w004(patterns: Any, expected: str) -> None:
    with override_settings(ROOT_URLCONF=patterns):
        (message,) = check_urls(None)
    assert message.id == "celery_stats.W004"
    assert message.msg == (
        f"Requests to {expected} do not reach celery_stats, because another URL pattern matches "
        "this path first."
    )
    assert "urlpatterns" in str(message.hint)


@pytest.mark.parametrize(
    "patterns",
    [
        (ENDPOINT,),
        (ENDPOINT, FRONT_END),
        (OWN_VIEW, FRONT_END, ENDPOINT),
        # Its name is unknown to the check, or it has none.
        (FRONT_END, NESTED),
        (FRONT_END,),
        (CONDITIONAL,),
    ],
)
def test_check_urls__path_that_is_reached_or_not_known__pass(patterns: Any) -> None:
    with override_settings(ROOT_URLCONF=patterns):
        assert check_urls(None) == []


def test_check_urls__defaults__pass(settings: Any) -> None:
    assert check_urls(None) == []
    del settings.ROOT_URLCONF
    assert check_urls(None) == []


@pytest.mark.parametrize(
    ("patterns", "expected"), [((ENDPOINT, FRONT_END), []), ((FRONT_END, ENDPOINT), ["W004"])]
)
def test_check_urls__prefix_of_the_server__does_not_count(
    patterns: Any, expected: list[str]
) -> None:
    with override_settings(ROOT_URLCONF=patterns):
        set_script_prefix("/shop/")
        try:
            assert ids(check_urls(None)) == expected
        finally:
            set_script_prefix("/")
