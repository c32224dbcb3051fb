"""The published schema: it is the reviewed file, and real answers are valid against it.

After a change to the schema, write the reviewed file again and read the difference:

    DJANGO_SETTINGS_MODULE=tests.settings python -m django spectacular \
        --urlconf tests.test_schema --validate --fail-on-warn --file tests/schema.yml
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.http import HttpResponse
from django.urls import include, path
from django.utils.module_loading import import_string
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.test import APIClient
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from celery_stats.query import PARAMETERS
from celery_stats.shapes import FIELDS
from celery_stats.views import CeleryStatsView
from tests.accounts.models import User
from tests.answers import mask
from tests.brokers import MakeBroker, RedisServer, Use, deaf_afterwards
from tests.pools import BUSY, IDLE, Fleet, at_work
from tests.processes import run_python, wait_until
from tests.published import load, problems

URL = "/api/celery-stats/"
TOKEN = "rest_framework.authentication.TokenAuthentication"

# The API of a project that has only this endpoint.
urlpatterns = [path("api/", include("celery_stats.urls"))]


def generate(folder: Path) -> dict[str, Any]:
    """Return the schema that drf-spectacular's command writes. A warning is an error."""
    file = folder / "schema.yml"
    call_command("spectacular", urlconf=__name__, validate=True, fail_on_warn=True, file=str(file))
    return yaml.safe_load(file.read_text())


@pytest.fixture(scope="module")
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    with at_work(redis_server, db=901) as fleet:
        yield fleet


@pytest.fixture
def answer(fleet: Fleet, use: Use, api: APIClient) -> dict[str, Any]:
    """The endpoint's answer about a busy worker of each pool."""
    use(fleet.broker)
    response = api.get(URL, {"task_id": fleet.task_ids})
    assert response.status_code == 200
    assert "Celery-Stats-Missing" not in response.headers
    return response.json()


# The schema itself


def test_schema__is_the_reviewed_file(tmp_path: Path) -> None:
    assert generate(tmp_path) == load()


def test_schema__is_the_contract() -> None:
    schema = load()
    operation = schema["paths"]["/api/celery-stats/"]["get"]
    assert operation["operationId"] == "celery_stats_retrieve"
    assert operation["tags"] == ["celery-stats"]
    assert operation["summary"] == "Get Celery worker statistics"
    names = [parameter["name"] for parameter in operation["parameters"]]
    assert names == sorted([*PARAMETERS, "format"])
    responses = operation["responses"]
    kinds = {status: list(response["content"]) for status, response in responses.items()}
    metrics = ["application/openmetrics-text; version=1.0.0", "text/plain; version=0.0.4"]
    assert list(kinds) == ["200", "400", "401", "403", "405", "406", "429", "503"]
    assert kinds.pop("200") == ["application/json", "text/html", *metrics]
    assert kinds.pop("406") == ["application/json"]
    errors = ["application/json", "text/html", "text/plain"]
    assert all(found == errors for found in kinds.values())
    assert {
        status: list(response["headers"])
        for status, response in responses.items()
        if "headers" in response
    } == {
        "200": ["Celery-Stats-Missing"],
        "401": ["WWW-Authenticate"],
        "405": ["Allow"],
        "429": ["Retry-After"],
        "503": ["Retry-After"],
    }
    assert responses["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/CeleryStatsResponse"
    }
    response = schema["components"]["schemas"]["CeleryStatsResponse"]
    assert list(response["properties"]) == response["required"] == list(FIELDS)
    assert all(value["nullable"] for value in response["properties"].values())


def test_schema__examples_are_valid() -> None:
    schema = load()
    content = schema["paths"]["/api/celery-stats/"]["get"]["responses"]["200"]["content"]
    examples = content["application/json"]["examples"]
    assert len(examples) == 2
    for example in examples.values():
        assert problems(example["value"], schema) == []


def test_schema__in_openapi_3_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr(spectacular_settings, "OAS_VERSION", "3.1.0")
    schema = generate(tmp_path)
    assert "nullable" not in str(schema)
    assert problems(answer, schema) == []
    assert problems(dict.fromkeys(FIELDS), schema) == []


def test_schema__camelizing_hook__as_on_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields"

    def mark(result: Any, **kwargs: Any) -> Any:
        result["components"]["schemas"]["CeleryTask"]["x-team"] = "shop"
        return result

    monkeypatch.setattr(spectacular_settings, "POSTPROCESSING_HOOKS", [import_string(hook), mark])

    class Other(serializers.Serializer[Any]):
        one_two = serializers.CharField()

    class OtherView(APIView):
        @extend_schema(responses=Other)
        def get(self, request: Any) -> None: ...

    monkeypatch.setattr(
        sys.modules[__name__], "urlpatterns", [*urlpatterns, path("o/", OtherView.as_view())]
    )
    components = generate(tmp_path)["components"]["schemas"]
    # The hook has renamed the properties of another endpoint, whose renderer camelizes.
    assert list(components.pop("Other")["properties"]) == ["oneTwo"]
    # Other hooks can still add keys.
    assert components["CeleryTask"].pop("x-team") == "shop"
    assert components == load()["components"]["schemas"]


def test_schema__several_paths__an_operation_id_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        path("api/billing/celery-stats/", CeleryStatsView.as_view(celery_app="billing:app")),
        *urlpatterns,
        path("api/stats/celery/", CeleryStatsView.as_view()),
        path("internal/", include("celery_stats.urls", namespace="internal")),
    ]
    monkeypatch.setattr(sys.modules[__name__], "urlpatterns", paths)
    operations = {url: item["get"] for url, item in generate(tmp_path)["paths"].items()}
    assert {url: operation["operationId"] for url, operation in operations.items()} == {
        "/api/billing/celery-stats/": "api_billing_celery_stats_retrieve",
        "/api/celery-stats/": "celery_stats_retrieve",
        "/api/stats/celery/": "api_stats_celery_retrieve",
        "/internal/celery-stats/": "internal_celery_stats_retrieve",
    }
    described = load()["paths"]["/api/celery-stats/"]["get"]["responses"]
    assert all(operation["responses"] == described for operation in operations.values())


def test_schema__another_exception_handler__no_errors(tmp_path: Path, settings: Any) -> None:
    """Its errors are not those of the schema."""
    handler = "tests.test_drf.standardized"
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "EXCEPTION_HANDLER": handler}
    schema = generate(tmp_path)
    assert list(schema["paths"][URL]["get"]["responses"]) == ["200"]
    components = [name for name in schema["components"]["schemas"] if name.endswith("Error")]
    assert components == ["CeleryWorkerError"]


def test_schema__no_class_for_schemas__the_endpoint_all_the_same() -> None:
    code = """
import django
from django.conf import settings
settings.REST_FRAMEWORK["DEFAULT_SCHEMA_CLASS"] = None
django.setup()
from django.urls import resolve
print(resolve("/celery-stats/", urlconf="celery_stats.urls").url_name)
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("snapshot\n", "")


def test_document__read_when_a_schema_is_generated_alone() -> None:
    code = """
import sys
import django
django.setup()
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from django.urls import resolve
resolve("/api/celery-stats/", urlconf="tests.test_schema")
print(any(path.endswith("celery_stats/schema.yml") for path in opened))
from django.core.management import call_command
from django.http import HttpResponse
call_command("spectacular", urlconf="tests.test_schema", file="/dev/null")
print(any(path.endswith("celery_stats/schema.yml") for path in opened))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


# Real answers


def test_answer__every_pool_with_content_under_every_key(
    answer: dict[str, Any], fleet: Fleet
) -> None:
    assert problems(answer, load()) == []
    for key, replies in answer.items():
        for pool, worker in fleet.workers.items():
            assert replies[worker] or (pool in IDLE and key in BUSY), (key, pool)


def test_answer__no_workers(make_broker: MakeBroker, use: Use, api: APIClient) -> None:
    use(make_broker())
    answer = api.get(URL).json()
    assert answer == dict.fromkeys(FIELDS)
    assert problems(answer, load()) == []


def test_answer__error_replies(make_broker: MakeBroker, use: Use, api: APIClient) -> None:
    use(make_broker("redis", "broken@h", imports=["tests.broken_commands"]))
    answer = api.get(URL, {"task_id": "a"}).json()
    assert answer["stats"] == {"broken@h": {"error": "RuntimeError('no statistics today')"}}
    assert answer["reserved"] == {"broken@h": {"error": "RuntimeError('no list today')"}}
    assert answer["query_task"] == {"broken@h": {"error": "RuntimeError('no task today')"}}
    assert problems(answer, load()) == []


@deaf_afterwards
def test_answer__after_a_retry_with_reprs(
    make_broker: MakeBroker, use: Use, api: APIClient
) -> None:
    broker = use(make_broker("redis", "odd@h"))
    # An exception can be pickled, but a worker's reply cannot hold it as JSON.
    broker.app.send_task("tests.nap", [ValueError("odd")], {"seconds": 600}, serializer="pickle")

    def told() -> dict[str, Any] | None:
        answer: dict[str, Any] = api.get(URL).json()
        # On a busy machine the worker may answer the second question too late.
        return answer if (answer["active"] or {}).get("odd@h") else None

    answer = wait_until(told)
    (task,) = answer["active"]["odd@h"]
    assert "ValueError" in task["args"]
    assert isinstance(task["kwargs"], str)
    assert problems(answer, load()) == []


def test_answer__masked(fleet: Fleet, use: Use, api: APIClient, settings: Any) -> None:
    settings.DRF_CELERY_STATS = {**settings.DRF_CELERY_STATS, "HIDE_ARGUMENTS": True}
    use(fleet.broker)
    answer = api.get(URL, {"task_id": fleet.task_ids}).json()
    tasks = [task for replies in answer["active"].values() for task in replies]
    assert all(isinstance(task["args"], str) for task in tasks)
    assert all(isinstance(task["kwargs"], str) for task in tasks)
    assert problems(answer, load()) == []


def test_answer__masked_broker(answer: dict[str, Any]) -> None:
    for stats in answer["stats"].values():
        stats["broker"] |= {
            "hostname": "sentinel://:hunter2@one:26379",
            "alternates": ["redis://:hunter2@two:6379/0"],
            "ssl": {"ssl_keyfile_password": "hunter2", "ssl_check_hostname": True},
            "transport_options": {"sentinel_kwargs": {"password": "hunter2"}},
        }
    masked = mask(answer)
    assert "hunter2" not in str(masked)
    assert problems(masked, load()) == []


# Real errors


class NoMore(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return False

    def wait(self) -> float:
        return 3.0


def session_of(user: User) -> APIClient:
    client = APIClient()
    client.force_login(user)
    return client


def cause(
    status: int, accept: str, user: User, settings: Any, patch: pytest.MonkeyPatch
) -> HttpResponse:
    """A response with this status, where a client accepts this media type."""
    url = f"{URL}?format=xml" if status == 406 else f"{URL}?colour=red" if status == 400 else URL
    if status == 401:
        # By session, because a browser without one is redirected to the log-in page.
        settings.DRF_CELERY_STATS = {"AUTHENTICATION_CLASSES": [TOKEN]}
    elif status == 403:
        user.is_support = False
        user.save()
    elif status == 429:
        patch.setattr(CeleryStatsView, "throttle_classes", [NoMore])
    elif status == 503:
        settings.DRF_CELERY_STATS = {"CELERY_APP": "tests.nowhere:app"}
    client = session_of(user)
    method = client.post if status == 405 else client.get
    return method(url, headers={"accept": accept})


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json", "application/json"),
        ("text/html", "text/html"),
        ("application/openmetrics-text", "text/plain"),
        ("text/plain; version=0.0.4", "text/plain"),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403, 405, 406, 429, 503])
def test_error__representation_and_headers_as_declared(
    status: int,
    accept: str,
    media_type: str,
    support_user: User,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    response = cause(status, accept, support_user, settings, monkeypatch)
    assert response.status_code == status
    sent = response["Content-Type"].split(";")[0]
    assert sent == ("application/json" if status == 406 else media_type)
    schema = load()
    declared = schema["paths"][URL]["get"]["responses"][str(status)]
    assert set(declared.get("headers", ())) <= set(response.headers)
    body = declared["content"][sent]["schema"]
    if sent == "application/json":
        component = body["$ref"].rpartition("/")[2]
        assert problems(response.json(), schema, component) == []
    else:
        assert body == {"type": "string"}


# The validator refuses wrong answers


def test_validator__objects_to_an_integer_max_tasks_per_child(
    answer: dict[str, Any], fleet: Fleet
) -> None:
    schema = load()
    pool_schema = schema["components"]["schemas"]["CeleryWorkerPool"]
    pool_schema["properties"]["max-tasks-per-child"] = {"type": "integer"}

    def pool(kind: str) -> Any:
        return answer["stats"][fleet.workers[kind]]["pool"]

    assert problems(pool("prefork"), load(), "CeleryWorkerPool") == []
    assert problems(pool("prefork"), schema, "CeleryWorkerPool") == [
        "max-tasks-per-child: 'N/A' is not of type 'integer'"
    ]
    assert problems(pool("solo"), load(), "CeleryWorkerPool") == []
    assert "max-tasks-per-child: None is not of type 'integer'" in problems(
        pool("solo"), schema, "CeleryWorkerPool"
    )
    assert problems(answer, schema) != []


def test_validator__objects_to_an_underscored_max_concurrency(
    answer: dict[str, Any], fleet: Fleet
) -> None:
    schema = load()
    schema["components"]["schemas"]["CeleryWorkerPool"]["required"].append("max_concurrency")
    for name in fleet.workers.values():
        assert problems(answer["stats"][name]["pool"], schema, "CeleryWorkerPool") == [
            ": 'max_concurrency' is a required property"
        ]


def test_validator__objects_to_what_no_worker_sends(answer: dict[str, Any], fleet: Fleet) -> None:
    schema = load()
    worker = fleet.workers["prefork"]

    def spoilt(value: Any, *keys: Any) -> dict[str, Any]:
        copied = copy.deepcopy(answer)
        place = copied
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return copied

    for wrong in (
        spoilt({}, "more"),
        spoilt([], "stats"),
        spoilt("soon", "active", worker, 0, "time_start"),
        spoilt(None, "active", worker, 0, "delivery_info"),
        spoilt("tomorrow", "scheduled", worker, 0, "eta"),
        spoilt([1], "revoked", worker),
        spoilt(["active"], "query_task", worker, fleet.task_ids[0]),
        spoilt("n/a", "stats", worker, "pool"),
        spoilt(1, "stats", worker, "pool", "writes"),
        spoilt("some", "stats", worker, "prefetch_count"),
        spoilt("redis://a", "stats", worker, "broker", "alternates"),
        spoilt(None, "stats", worker, "rusage", "maxrss"),
    ):
        assert problems(wrong, schema) != []
    assert problems(answer, schema) == []
