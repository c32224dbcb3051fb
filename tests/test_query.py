"""The query parameters, as the parser and the endpoint read them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.authentication import TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.test import APIClient
from rest_framework.versioning import QueryParameterVersioning

from celery_stats.control.question import Question
from celery_stats.query import PARAMETERS, parse_question
from celery_stats.shapes import FIELDS
from tests.accounts.models import User
from tests.brokers import MakeBroker, Use


def errors(query: str) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as raised:
        parse_question(QueryDict(query))
    assert all(isinstance(messages, list) for messages in raised.value.detail.values())
    return raised.value.detail


def test_parameters__in_the_order_of_the_documents() -> None:
    """The one list that is written out. The other tests take the names from the table."""
    assert list(PARAMETERS) == ["task_id", "worker", "field"]


def test_parse__nothing__everything_is_asked() -> None:
    assert parse_question(QueryDict("")) == Question()


def test_parse__all_three__a_question() -> None:
    question = parse_question(QueryDict("task_id=b&task_id=a&worker=celery%40h%C3%A9&field=stats"))
    assert question == Question(("stats",), ("b", "a"), ("celery@hé",))


def test_parse__duplicates__once_in_the_order_given() -> None:
    assert parse_question(QueryDict("task_id=b&task_id=a&task_id=b")).task_ids == ("b", "a")


def test_parse__fields__in_the_order_of_the_answer() -> None:
    assert parse_question(QueryDict("field=stats&field=active")).fields == ("active", "stats")


def test_parse__format__belongs_to_rest_framework() -> None:
    assert parse_question(QueryDict("format=json")) == Question()


def test_parse__format_where_the_project_has_none__unknown(settings) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "URL_FORMAT_OVERRIDE": None}
    assert errors("format=json") == {
        "format": [f"Unknown parameter; known are: {', '.join(PARAMETERS)}."]
    }


class NamedVersion(QueryParameterVersioning):
    version_param = "v"


@pytest.mark.parametrize(
    ("versioning", "query", "unknown"),
    [
        ("rest_framework.versioning.QueryParameterVersioning", "version=1", []),
        ("rest_framework.versioning.QueryParameterVersioning", "v=1", ["v"]),
        (f"{__name__}.NamedVersion", "v=1", []),
        (f"{__name__}.NamedVersion", "version=1", ["version"]),
        ("rest_framework.versioning.URLPathVersioning", "version=1", ["version"]),
        (None, "version=1", ["version"]),
    ],
)
def test_parse__version__known_where_versioning_reads_the_query(
    versioning: str | None, query: str, unknown: list[str], settings
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_VERSIONING_CLASS": versioning}
    if unknown:
        assert list(errors(query)) == unknown
    else:
        assert parse_question(QueryDict(query)) == Question()


def test_parse__ignored_parameters__of_any_value(settings) -> None:
    settings.DRF_CELERY_STATS = {"IGNORED_PARAMETERS": ["x-auth-token", "_"]}
    assert parse_question(QueryDict("x-auth-token=a&_=1&_=2&worker=w")) == Question(workers=("w",))
    assert list(errors("_=1&X-Auth-Token=a&__=1")) == ["X-Auth-Token", "__"]


class QueryToken(TokenAuthentication):
    """A class as some projects have it: it reads the token from the URL."""

    def authenticate(self, request):
        return self.authenticate_credentials(request.query_params.get("x-auth-token"))


def test_endpoint__token_in_the_url__ignored_where_the_setting_names_it(
    support_user: User, make_broker: MakeBroker, use: Use, settings
) -> None:
    use(make_broker())
    token = Token.objects.create(user=support_user).key
    settings.DRF_CELERY_STATS = {
        **settings.DRF_CELERY_STATS,
        "AUTHENTICATION_CLASSES": [f"{__name__}.QueryToken"],
    }
    url = f"/api/celery-stats/?x-auth-token={token}"
    assert APIClient().get(url).status_code == 400
    settings.DRF_CELERY_STATS = {
        **settings.DRF_CELERY_STATS,
        "IGNORED_PARAMETERS": ["x-auth-token"],
    }
    assert APIClient().get(url).status_code == 200


@pytest.mark.parametrize("name", [n for n, found in PARAMETERS.items() if not found.choices])
def test_parse__100_values_of_255_characters__taken(name: str) -> None:
    values = [f"{number:0255}" for number in range(100)]
    question = parse_question(QueryDict("&".join(f"{name}={value}" for value in values)))
    assert question == Question(**{PARAMETERS[name].attribute: tuple(values)})


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["active"] * 101, "At most 100 values are allowed."),
        (["active", ""], "A value may not be empty."),
        (["x" * 256], "A value may have at most 255 characters."),
        (["a%00b"], "A value may not hold control characters."),
        (["a%0D%0Ab"], "A value may not hold control characters."),
        (["a%7Fb"], "A value may not hold control characters."),
        (["a%C2%85b"], "A value may not hold control characters."),
    ],
)
def test_parse__refused_value__says_why(name: str, values: list[str], message: str) -> None:
    assert errors("&".join(f"{name}={value}" for value in values)) == {name: [message]}


def test_parse__lone_surrogate__refused() -> None:
    params = QueryDict(mutable=True)
    params["worker"] = "a\ud800b"
    with pytest.raises(ValidationError, match="control characters"):
        parse_question(params)


@pytest.mark.parametrize("value", ["ACTIVE", "ping", "active stats", " active"])
def test_parse__unknown_field__names_the_known(value: str) -> None:
    messages = errors(f"field=active&field={quote(value)}")["field"]
    assert messages == [
        "Unknown field; known are: active, scheduled, reserved, revoked, query_task, stats."
    ]


def test_parse__fields_in_one_value__says_how_to_write_them() -> None:
    assert errors("field=active,stats")["field"] == [
        "Unknown field; known are: active, scheduled, reserved, revoked, query_task, stats. "
        "Write several as field=active&field=stats."
    ]


def test_parse__unknown_parameters__named() -> None:
    unknown = [f"Unknown parameter; known are: {', '.join(PARAMETERS)}, format."]
    assert errors("tasks=1&task_id=a&") == {"tasks": unknown}
    assert errors("a=1&b=2&field=x").keys() == {"a", "b", "field"}


def test_parse__long_unknown_names__cut() -> None:
    long = "x" * 10_000
    assert list(errors(f"{long}=1")) == [f"{long[:64]}…"]
    assert len(errors("&".join(f"{number}{long}=1" for number in range(900)))) == 10


@pytest.mark.parametrize(
    "query",
    [
        "&".join(["task_id=a"] * 1_100_000),
        "&" * 10_000_000,
        "&".join(f"{number}=1" for number in range(2000)),
    ],
    ids=["ten million bytes", "ten million separators", "two thousand names"],
)
def test_endpoint__more_parameters_than_django_reads__400(api: APIClient, query: str) -> None:
    response = api.generic("GET", f"/api/celery-stats/?{query}")
    assert response.status_code == 400
    assert response.json() == {"non_field_errors": ["Too many parameters."]}


def test_endpoint__a_value_of_ten_million_bytes__400(api: APIClient) -> None:
    response = api.generic("GET", f"/api/celery-stats/?worker={'x' * 10_000_000}")
    assert response.status_code == 400
    assert response.json() == {"worker": ["A value may have at most 255 characters."]}


@pytest.mark.parametrize("query", ["worker=%ff%fe", "worker=%ED%A0%80", "worker=%", "worker=%u1"])
def test_parse__invalid_percent_encoding__a_name_that_no_worker_has(query: str) -> None:
    (worker,) = parse_question(QueryDict(query)).workers
    assert worker.encode()


def outcome(values: dict[str, list[str]]) -> Question | dict[str, list[str]]:
    params = QueryDict(mutable=True)
    for name, given_values in values.items():
        params.setlist(name, given_values)
    try:
        return parse_question(params)
    except ValidationError as error:
        return error.detail


TEXT = st.text(st.characters(codec=None), max_size=260)


@given(st.dictionaries(TEXT, st.lists(TEXT, min_size=1)))
def test_parse__any_text__a_question_or_an_error_body(values: dict[str, list[str]]) -> None:
    result = outcome(values)
    assert isinstance(result, Question) or JSONRenderer().render(result)


@given(st.sampled_from(list(PARAMETERS)), st.lists(TEXT | st.sampled_from(FIELDS)))
def test_parse__any_values__within_the_limits_or_refused(name: str, values: list[str]) -> None:
    result = outcome({name: values})
    if isinstance(result, dict):
        assert list(result) == [name]
        return
    attribute = PARAMETERS[name].attribute
    passed = getattr(result, attribute)
    assert result == Question(**{attribute: passed})
    assert set(passed) == (set(values) or set(getattr(Question(), attribute)))
    assert all(0 < len(value) <= 255 and value.encode() for value in passed)
