"""The published OpenAPI schema.

A snapshot passes through as data: validating 10 000 tasks field by field would
cost seconds and could only drop what a newer worker sends. The schema is
therefore written out, checked against Celery's worker code, and the tests hold
real answers against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import (
    Direction,
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)
from rest_framework import serializers
from rest_framework.settings import api_settings

from .control.question import FIELDS
from .query import CONTROL, MAX_LENGTH, MAX_VALUES

Schema = dict[str, Any]
Method = TypeVar("Method", bound=Callable[..., Any])


class _OnTheWire(dict[str, Any]):
    """A schema whose property names are those of the answer, whatever is made of others.

    drf-spectacular's hook ``camelize_serializer_fields`` renames the properties of all
    components, because the renderer of djangorestframework-camel-case does so with the answers.
    This endpoint has a renderer of its own: what workers send is passed on as it is.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in ("properties", "required"):
            super().__setitem__(key, value)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: Schema) -> Schema:
    return {**schema, "nullable": True}


def _one_of(*schemas: Schema, **meta: Any) -> Schema:
    return {"oneOf": list(schemas), **meta}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema, **meta: Any) -> Schema:
    return {"type": "object", "additionalProperties": values, **meta}


def _object(
    description: str,
    required: Mapping[str, Schema],
    optional: Mapping[str, Schema] | None = None,
) -> Schema:
    """An object that may hold further keys: newer workers and plugins add theirs."""
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": {},
    }


def _by_worker(reply: Schema, description: str) -> Schema:
    """One key of the response: worker name -> reply, or the error that the worker met."""
    return _map(
        # The error comes first, as generated clients try the alternatives in order.
        _one_of(_ref("CeleryWorkerError"), reply),
        nullable=True,
        description=f"{description} Null where no worker answered, or none was asked.",
    )


ANY: Schema = {}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
# Greenlet ids and memory counters do not fit 32 bits.
LONG: Schema = {"type": "integer", "format": "int64"}
NUMBER: Schema = {"type": "number"}
STRING: Schema = {"type": "string"}
TIME: Schema = {"type": "string", "format": "date-time"}
NOT_AVAILABLE = _ref("CeleryNotAvailable")
TASK = _ref("CeleryTask")
TASKS = _list(TASK)

# In the terms of OpenAPI 3.0, where `nullable` counts only beside a `type`.
COMPONENTS: dict[str, Schema] = {
    "CeleryStatsResponse": {
        "type": "object",
        "description": "A snapshot of every Celery worker that answered.",
        "properties": {
            "active": _by_worker(TASKS, "Worker name to the tasks being executed."),
            "scheduled": _by_worker(
                _list(_ref("CeleryScheduledTask")),
                "Worker name to the tasks held until an ETA.",
            ),
            "reserved": _by_worker(
                TASKS, "Worker name to the tasks received and not yet started."
            ),
            "revoked": _by_worker(_list(STRING), "Worker name to the ids of revoked tasks."),
            "query_task": _by_worker(
                _ref("CeleryTaskStates"), "Worker name to the tasks that were looked up."
            ),
            "stats": _by_worker(_ref("CeleryWorkerStats"), "Worker name to its statistics."),
        },
        "required": list(FIELDS),
        "additionalProperties": False,
    },
    "CeleryWorkerError": _object(
        "What a worker answers where a command failed.", {"error": STRING}
    ),
    "CeleryNotAvailable": {
        "type": "string",
        "enum": ["N/A"],
        "description": "What a worker sends for a figure that it does not have.",
    },
    "CeleryTask": _object(
        "A task as its worker sees it.",
        {
            "id": STRING,
            "name": {**STRING, "description": "The task's name, or its shadow name."},
            "args": _one_of(
                _list(ANY),
                _nullable(STRING),
                description="A string where masked, or where the worker sends a repr.",
            ),
            "kwargs": _one_of(
                _map(ANY),
                _nullable(STRING),
                description="A string where masked, or where the worker sends a repr.",
            ),
            "type": {**STRING, "description": "The task's registered name."},
            "hostname": {**STRING, "description": "The worker's name."},
            "time_start": {
                **_nullable(NUMBER),
                "description": "Seconds since the epoch; null for a task not yet started.",
            },
            "acknowledged": BOOLEAN,
            "delivery_info": _ref("CeleryDeliveryInfo"),
            "worker_pid": {
                **_nullable(LONG),
                "description": "Process id, or greenlet id; null for a task not yet started.",
            },
        },
    ),
    "CeleryDeliveryInfo": _object(
        "How the broker delivered a task.",
        {
            "exchange": _nullable(STRING),
            "routing_key": _nullable(STRING),
            "priority": _nullable(INTEGER),
            "redelivered": _nullable(BOOLEAN),
        },
    ),
    "CeleryScheduledTask": _object(
        "A task held by a worker's timer.",
        {
            "eta": {
                **_nullable(TIME),
                "description": "Null where the task has none.",
            },
            "priority": INTEGER,
            "request": TASK,
        },
    ),
    "CeleryTaskStates": _map(
        {**_list(_one_of(STRING, TASK)), "minItems": 2, "maxItems": 2},
        description="Task id to `[state, task]`; states: active, reserved, scheduled, ready.",
    ),
    "CeleryWorkerStats": _object(
        "A worker's statistics.",
        {
            "total": _map(LONG, description="Task name to the number of tasks accepted."),
            "pid": INTEGER,
            "clock": {
                **STRING,
                "description": "The logical clock, a whole number as text.",
            },
            "uptime": {**INTEGER, "description": "Seconds since the worker started."},
            "pool": _one_of(_ref("CeleryPool"), NOT_AVAILABLE),
            "broker": _one_of(_ref("CeleryBroker"), NOT_AVAILABLE),
            "prefetch_count": _one_of(INTEGER, NOT_AVAILABLE),
            "rusage": _one_of(_ref("CeleryRusage"), NOT_AVAILABLE),
        },
        {"autoscaler": _ref("CeleryAutoscaler")},
    ),
    "CeleryPool": _object(
        "A worker's pool. Which keys there are depends on the kind of pool.",
        {
            "implementation": {
                **STRING,
                "description": "Module and class of the pool.",
            },
            "max-concurrency": INTEGER,
        },
        {
            "processes": {
                **_list(INTEGER),
                "description": "Process ids; prefork and solo.",
            },
            "max-tasks-per-child": _one_of(
                _nullable(INTEGER), NOT_AVAILABLE, description="Prefork; null for solo."
            ),
            "put-guarded-by-semaphore": {**BOOLEAN, "description": "Prefork and solo."},
            "timeouts": {
                **_list(NUMBER),
                "description": "Seconds, soft and hard, 0 for none; empty for solo.",
            },
            "writes": _one_of(_ref("CeleryPoolWrites"), NOT_AVAILABLE, description="Prefork."),
            "threads": {**INTEGER, "description": "Threads started; threads."},
            "free-threads": {**INTEGER, "description": "Eventlet."},
            "running-threads": {**INTEGER, "description": "Eventlet."},
        },
    ),
    "CeleryPoolWrites": _object(
        "How tasks were spread over a prefork pool.",
        {
            "total": LONG,
            "avg": STRING,
            "all": {
                **STRING,
                "description": "Share of each process, separated by commas.",
            },
            "raw": {
                **STRING,
                "description": "Count of each process, separated by commas.",
            },
            "strategy": STRING,
            "inqueues": _object("Pipes to the processes.", {"total": INTEGER, "active": INTEGER}),
        },
    ),
    "CeleryAutoscaler": _object(
        "The autoscaler's bounds and state, where one is enabled.",
        {"max": INTEGER, "min": INTEGER, "current": INTEGER, "qty": INTEGER},
    ),
    "CeleryBroker": _object(
        "The worker's connection to the broker, without its password.",
        {
            "hostname": _nullable(STRING),
            "userid": _nullable(STRING),
            "virtual_host": _one_of(_nullable(STRING), INTEGER),
            "port": _one_of(_nullable(INTEGER), STRING),
            "insist": BOOLEAN,
            "ssl": _one_of(
                _nullable(BOOLEAN),
                _map(ANY),
                STRING,
                description="Whether TLS is used, or its options; a string where masked.",
            ),
            "transport": STRING,
            "connect_timeout": {**_nullable(NUMBER), "description": "Seconds."},
            "transport_options": _one_of(_map(ANY), STRING, description="A string where masked."),
            "login_method": _nullable(STRING),
            "uri_prefix": _nullable(STRING),
            "heartbeat": {
                **_nullable(NUMBER),
                "description": "Seconds; 0 or null for none.",
            },
            "failover_strategy": STRING,
            "alternates": {**_list(STRING), "description": "URLs to fail over to."},
        },
        {"credential_provider": _nullable(STRING)},
    ),
    "CeleryRusage": _object(
        "What the worker's main process used; see getrusage(2).",
        {
            "utime": {**NUMBER, "description": "Seconds."},
            "stime": {**NUMBER, "description": "Seconds."},
            **dict.fromkeys(
                (
                    *("maxrss", "ixrss", "idrss", "isrss", "minflt", "majflt", "nswap"),
                    *(
                        "inblock",
                        "oublock",
                        "msgsnd",
                        "msgrcv",
                        "nsignals",
                        "nvcsw",
                        "nivcsw",
                    ),
                ),
                LONG,
            ),
        },
    ),
    "CeleryStatsError": {
        "type": "object",
        "properties": {"detail": STRING},
        "required": ["detail"],
    },
    "CeleryStatsQueryError": _map(_list(STRING), description="Parameter name to what is wrong."),
}


class CeleryStatsResponse(serializers.Serializer[Any]):
    """Stands for the response in ``extend_schema``; its schema is ``COMPONENTS``."""


class CeleryStatsResponseExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Publishes ``COMPONENTS``, which serializer fields could not express."""

    target_class = CeleryStatsResponse

    def get_name(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return "CeleryStatsResponse"

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> Schema:
        components: dict[str, Schema] = _for_version(COMPONENTS, spectacular_settings.OAS_VERSION)
        response = components.pop("CeleryStatsResponse")
        for name, schema in components.items():
            auto_schema.registry.register_on_missing(
                # The object is what drf-spectacular tells colliding names apart by.
                ResolvedComponent(  # type: ignore[no-untyped-call]
                    name, ResolvedComponent.SCHEMA, schema, object=type(self)
                )
            )
        return response


def _for_version(schema: Any, version: str) -> Any:
    """A copy in the terms of the OpenAPI version: from 3.1 on there is no ``nullable``."""
    if isinstance(schema, list):
        return [_for_version(item, version) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _for_version(value, version) for key, value in schema.items()}
    if not version.startswith("3.0") and copy.pop("nullable", False):
        copy["type"] = [copy["type"], "null"]
    return _OnTheWire(copy)


_DELIVERY = {
    "exchange": "",
    "routing_key": "celery",
    "priority": 0,
    "redelivered": False,
}


def _task(identifier: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "name": "invoices.send",
        "args": [42],
        "kwargs": {"language": "en"},
        "type": "invoices.send",
        "hostname": "celery@worker-1",
        "time_start": None,
        "acknowledged": False,
        "delivery_info": _DELIVERY,
        "worker_pid": None,
        **changes,
    }


_RUNNING = _task(
    "0a1c8d5e-6f0b-4c35-9d0f-2f6f0a7b1c11",
    time_start=1767225600.25,
    acknowledged=True,
    worker_pid=4243,
)

AT_WORK: dict[str, Any] = {
    "active": {"celery@worker-1": [_RUNNING]},
    "scheduled": {
        "celery@worker-1": [
            {
                "eta": "2026-01-01T06:00:00+00:00",
                "priority": 6,
                "request": _task("5b7f1a52-18c5-4a8e-8a2e-6c1f3a9d2b22"),
            }
        ]
    },
    "reserved": {"celery@worker-1": [_task("c2d9e6f4-93a1-4d7c-b5a8-7e4d1f0c3a33")]},
    "revoked": {"celery@worker-1": ["e8a4b7c1-2d6f-4b90-8c13-5a9e0d7f6b44"]},
    "query_task": {"celery@worker-1": {_RUNNING["id"]: ["active", _RUNNING]}},
    "stats": {
        "celery@worker-1": {
            "total": {"invoices.send": 1280},
            "pid": 4242,
            "clock": "52817",
            "uptime": 86400,
            "pool": {
                "implementation": "celery.concurrency.prefork:TaskPool",
                "max-concurrency": 2,
                "processes": [4243, 4244],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [0, 0],
                "writes": {
                    "total": 1280,
                    "avg": "0.50",
                    "all": "0.51, 0.49",
                    "raw": "655, 625",
                    "strategy": "fair",
                    "inqueues": {"total": 2, "active": 0},
                },
            },
            "broker": {
                "hostname": "redis",
                "userid": None,
                "virtual_host": "0",
                "port": 6379,
                "insist": False,
                "ssl": False,
                "transport": "redis",
                "connect_timeout": 4,
                "transport_options": {},
                "login_method": None,
                "uri_prefix": None,
                "heartbeat": 120.0,
                "failover_strategy": "round-robin",
                "alternates": [],
                "credential_provider": None,
            },
            "prefetch_count": 8,
            "rusage": {
                "utime": 21.37,
                "stime": 4.02,
                "maxrss": 68412,
                "ixrss": 0,
                "idrss": 0,
                "isrss": 0,
                "minflt": 30215,
                "majflt": 12,
                "nswap": 0,
                "inblock": 4096,
                "oublock": 512,
                "msgsnd": 0,
                "msgrcv": 0,
                "nsignals": 0,
                "nvcsw": 95120,
                "nivcsw": 873,
            },
        }
    },
}


def _parameter(name: str, description: str, **item: Any) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        type={"type": "array", "items": {**STRING, **item}, "maxItems": MAX_VALUES},
        explode=True,
        description=description,
    )


def _header(name: str, statuses: list[int], schema: Schema, description: str) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        type=schema,
        location=OpenApiParameter.HEADER,
        response=statuses,
        description=description,
    )


def _error(description: str) -> OpenApiResponse:
    return OpenApiResponse(_ref("CeleryStatsError"), description)


def _errors(
    status: int, description: str, body: Schema | None = None
) -> dict[tuple[int, str], OpenApiResponse]:
    """An error in both representations."""
    return {
        (status, JSON): OpenApiResponse(body or _ref("CeleryStatsError"), description),
        (status, HTML): OpenApiResponse(STRING, description),
    }


_NAME = {"minLength": 1, "maxLength": MAX_LENGTH, "pattern": f"^[^{CONTROL}]+$"}
JSON = "application/json"
HTML = "text/html"
METRICS = ("application/openmetrics-text; version=1.0.0", "text/plain; version=0.0.4")

SUMMARY = "Get Celery worker statistics"
DESCRIPTION = (
    "A snapshot of every Celery worker reachable through the broker, as the workers "
    "themselves describe it. A key that no worker answered is null; with no worker at all, "
    "all six are. For staff and support users."
)

schema = extend_schema(
    operation_id="celery_stats_retrieve",
    tags=["celery-stats"],
    summary=SUMMARY,
    description=DESCRIPTION,
    parameters=[
        _parameter("task_id", "Look these tasks up: they are the ids of `query_task`.", **_NAME),
        _parameter("worker", "Ask only these workers, by full name.", **_NAME),
        _parameter(
            "field",
            "Ask only for these; the others are null and are not asked for.",
            enum=FIELDS,
        ),
        _header(
            "Celery-Stats-Missing",
            [200],
            STRING,
            "Names of workers that did not answer everything asked, separated by commas; absent "
            "where none. In a name, every byte of UTF-8 but printable ASCII, and each comma, "
            "space, percent sign, plus sign and backslash, is percent-encoded; decoded, it is the "
            "name in the body. Names beyond 4000 bytes are left out, and a last item `+<number>` "
            "counts them.",
        ),
        _header("WWW-Authenticate", [401], STRING, "The scheme to authenticate by."),
        _header("Allow", [405], STRING, "The methods that there are."),
        _header("Retry-After", [429, 503], {**INTEGER, "minimum": 0}, "Seconds."),
    ],
    responses={
        (200, JSON): OpenApiResponse(
            CeleryStatsResponse,
            "The snapshot, even with no worker. Metrics are offered where the project has "
            "installed the extra `metrics`.",
            examples=[
                OpenApiExample("Workers at work", value=AT_WORK, media_type=JSON),
                OpenApiExample("No worker", value=dict.fromkeys(FIELDS), media_type=JSON),
            ],
        ),
        (200, HTML): OpenApiResponse(STRING, "The snapshot, even with no worker."),
        **{(200, kind): OpenApiResponse(STRING) for kind in METRICS},
        **_errors(
            400,
            "An unknown parameter, an unknown field, too many values or one that is too long.",
            _ref("CeleryStatsQueryError"),
        ),
        **_errors(401, "No valid credentials. Browsers are redirected to the log-in page."),
        **_errors(403, "Neither staff nor support."),
        **_errors(405, "Another method than GET, HEAD or OPTIONS."),
        # Where nothing is acceptable, JSON is sent all the same.
        (406, JSON): _error("The format does not exist, or the Accept header excludes it."),
        **_errors(429, "Too many requests, by the throttles of the project."),
        **_errors(503, "The broker cannot be reached, or has no remote control."),
    },
)


def published(method: Method) -> Method:
    """Describe a view's method, where the project has a class that makes schemas."""
    return schema(method) if api_settings.DEFAULT_SCHEMA_CLASS is not None else method
