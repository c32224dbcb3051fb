"""Reading the settings, and the response where a setting is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.permissions import AllowAny
from rest_framework.test import APIClient

from celery_stats.conf import DEFAULTS, WrongSetting, conf
from celery_stats.exceptions import ServiceUnavailable
from tests.accounts.models import User

URL = "/api/celery-stats/"
APP = "tests.celery_app:app"
ALLOW_ANY = "rest_framework.permissions.AllowAny"
TOKEN = "rest_framework.authentication.TokenAuthentication"

#: Values that are refused, by the check that says why.
WRONG_BY_CHECK: dict[str, list[Any]] = {
    "E001": [None, [], "TIMEOUT"],
    "E002": [{"TIME_OUT": 1}, {"redact": False}, {"COLOUR": "red"}, {1: 2}],
    "E003": [
        *({"CELERY_APP": value} for value in (1, ("tests.celery_app", "app"))),
        *({"TIMEOUT": value} for value in ("1", None, True)),
        *({"DEADLINE": value} for value in ("5", False, 1j)),
        *({"REDACT": value} for value in ("no", None, 1)),
        *({"HIDE_ARGUMENTS": value} for value in ("yes", 1)),
        *({"PERMISSION_CLASSES": value} for value in (None, ALLOW_ANY, [AllowAny], 7)),
        *({"AUTHENTICATION_CLASSES": value} for value in (TOKEN, [1], [None], {"class": TOKEN})),
        *({"IGNORED_PARAMETERS": value} for value in ("x-auth-token", [1])),
    ],
    "E004": [
        *({"TIMEOUT": value} for value in (0, -1.5, float("nan"), float("inf"), 10**400)),
        *({"DEADLINE": value} for value in (0, -5, float("nan"), float("inf"), 10**400)),
    ],
}
WRONG = [value for values in WRONG_BY_CHECK.values() for value in values]
WRONG_CLASSES: list[Any] = [
    {"PERMISSION_CLASSES": ["nowhere.IsOperator"]},
    {"PERMISSION_CLASSES": ["IsOperator"]},
    {"PERMISSION_CLASSES": ["..relative.IsOperator"]},
    {"PERMISSION_CLASSES": [ALLOW_ANY, f"{__name__}.Missing"]},
    {"PERMISSION_CLASSES": [TOKEN]},
    {"PERMISSION_CLASSES": [f"{__name__}.WRONG"]},
    {"PERMISSION_CLASSES": [f"{__name__}.NeedsAName"]},
    {"PERMISSION_CLASSES": ["tests.exits_when_imported.IsOperator"]},
    {"AUTHENTICATION_CLASSES": ["nowhere.Tokens"]},
    {"AUTHENTICATION_CLASSES": [ALLOW_ANY]},
    {"AUTHENTICATION_CLASSES": [TOKEN, "tests.exits_when_imported.Tokens"]},
    {"CELERY_APP": "nowhere.celery:app"},
    {"CELERY_APP": "tests.exits_when_imported:app"},
]


class NeedsAName(AllowAny):
    def __init__(self, name: str) -> None:
        self.name = name


def read_everything() -> dict[str, Any]:
    return {name.upper(): getattr(conf, name) for name in vars(type(conf)) if name[0] != "_"}


def test_conf__nothing_set__defaults(settings: Any) -> None:
    del settings.DRF_CELERY_STATS
    assert read_everything() == DEFAULTS


def test_conf__set__the_values_of_the_project(settings: Any) -> None:
    settings.DRF_CELERY_STATS = {
        "CELERY_APP": APP,
        "TIMEOUT": 2,
        "DEADLINE": 2.5,
        "IGNORED_PARAMETERS": ["_"],
        "PERMISSION_CLASSES": (ALLOW_ANY,),
        "AUTHENTICATION_CLASSES": (TOKEN,),
        "REDACT": False,
        "HIDE_ARGUMENTS": True,
    }
    assert read_everything() == settings.DRF_CELERY_STATS
    assert settings.DRF_CELERY_STATS.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("value", WRONG)
def test_conf__wrong__refused(settings: Any, value: Any) -> None:
    settings.DRF_CELERY_STATS = value
    with pytest.raises(WrongSetting, match="DRF_CELERY_STATS"):
        read_everything()


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize("value", [*WRONG, *WRONG_CLASSES])
def test_get__wrong_setting__503_and_the_reason_in_the_log(
    support_user: User, settings: Any, value: Any, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = APIClient()
    client.force_login(support_user)
    settings.DRF_CELERY_STATS = value
    response = client.get(URL, headers={"Accept": accept})
    assert response.status_code == 503
    assert response["Content-Type"].startswith(accept)
    assert response["Cache-Control"] == "no-store"
    assert int(response["Retry-After"]) > 0
    body = response.content.decode()
    if accept == "application/json":
        assert response.json() == {"detail": str(ServiceUnavailable.default_detail)}
    assert "DRF_CELERY_STATS" not in body
    reasons = [r.getMessage() for r in caplog.records if r.name.startswith("celery_stats.")]
    assert len(reasons) == 1
    named = next(iter(value)) if isinstance(value, dict) else "DRF_CELERY_STATS"
    assert named == "CELERY_APP" or str(named) in reasons[0]


@pytest.mark.parametrize(
    "value", [{"TIMEOUT": "1"}, {"HIDE_ARGUMENT": True}, {"PERMISSION_CLASSES": ["nowhere.A"]}]
)
@pytest.mark.django_db
def test_get__wrong_setting__nobody_gets_an_answer(settings: Any, value: Any) -> None:
    settings.DRF_CELERY_STATS = value
    assert APIClient().get(URL).status_code in (401, 503)


def test_get__wrong_setting__no_secret_in_the_log(
    api: APIClient, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The URL of a broker, where the path of the app belongs."""
    settings.DRF_CELERY_STATS = {"CELERY_APP": ["redis://:hunter2@h/0"]}
    caplog.set_level("DEBUG")
    assert api.get(URL).status_code == 503
    assert "should be a dotted path" in caplog.text
    assert "hunter2" not in caplog.text
