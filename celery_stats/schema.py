"""The published OpenAPI schema of the endpoint, for drf-spectacular.

The schemas of the bodies and the examples are written out in ``schema.yml``, because a snapshot
passes through as data: validating 10 000 tasks field by field would cost seconds, and could only
drop what a newer worker sends. This module adds what is computed. The document is read when a
schema is generated, and at no other time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils.functional import SimpleLazyObject
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
from rest_framework.views import exception_handler

from .headers import MAX_NAME_BYTES, MISSING_WORKERS
from .query import MAX_LENGTH, MAX_VALUES, PARAMETERS
from .shapes import CONTROL_RANGES

Schema = dict[str, Any]
Method = TypeVar("Method", bound=Callable[..., Any])

JSON = "application/json"
HTML = "text/html"
TEXT = "text/plain"
METRICS = ("application/openmetrics-text; version=1.0.0", "text/plain; version=0.0.4")

OPERATION_ID = "celery_stats_retrieve"
SUMMARY = "Get Celery worker statistics"
DESCRIPTION = (
    "A snapshot of every Celery worker reachable through the broker, as the workers "
    "themselves describe it. A key that no worker answered is null; with no worker at all, "
    "all six are. For staff and support users."
)

STRING: Schema = {"type": "string"}
SECONDS: Schema = {"type": "integer", "minimum": 0}
ERROR_BODY: Schema = {"$ref": "#/components/schemas/CeleryStatsError"}
QUERY_ERROR_BODY: Schema = {"$ref": "#/components/schemas/CeleryStatsQueryError"}
NAME: Schema = {
    **STRING,
    "minLength": 1,
    "maxLength": MAX_LENGTH,
    "pattern": f"^[^{CONTROL_RANGES}]+$",
}


def read_document() -> dict[str, Any]:
    """Return ``schema.yml``: ``schemas`` and ``examples``, each by name."""
    text = Path(__file__).with_name("schema.yml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


class CeleryStatsResponse(serializers.Serializer[Any]):
    """The response in ``extend_schema``. Its schema is the one in ``schema.yml``."""


class CeleryStatsResponseExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Publishes the schemas of ``schema.yml``, which serializer fields cannot express."""

    target_class = CeleryStatsResponse

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> Schema:
        schemas = _in_terms_of(spectacular_settings.OAS_VERSION, read_document()["schemas"])
        response: Schema = schemas.pop(CeleryStatsResponse.__name__)
        if not has_known_errors():
            del schemas["CeleryStatsError"], schemas["CeleryStatsQueryError"]
        for name, schema in schemas.items():
            auto_schema.registry.register_on_missing(
                # drf-spectacular compares the object where two components have one name.
                ResolvedComponent(  # type: ignore[no-untyped-call]
                    name, ResolvedComponent.SCHEMA, schema, object=type(self)
                )
            )
        return response


class _AsSent(dict[str, Any]):
    """A schema whose property names cannot be replaced, because workers send them like this.

    drf-spectacular's hook ``camelize_serializer_fields`` renames the properties of all components,
    as the renderer of djangorestframework-camel-case does in the responses of a project. This
    endpoint has its own renderer, which changes no name.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in ("properties", "required"):
            super().__setitem__(key, value)


def _in_terms_of(version: str, schema: Any) -> Any:
    """Return a schema of OpenAPI 3.0 in the terms of a version: 3.1 has no ``nullable``."""
    if isinstance(schema, list):
        return [_in_terms_of(version, item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    translated = {key: _in_terms_of(version, value) for key, value in schema.items()}
    if not version.startswith("3.0") and translated.pop("nullable", False):
        translated["type"] = [translated["type"], "null"]
    return _AsSent(translated)


def _examples() -> list[OpenApiExample]:
    """Return the examples of ``schema.yml``."""
    examples = read_document()["examples"].items()
    return [OpenApiExample(name, value=value, media_type=JSON) for name, value in examples]


def _header(name: str, statuses: list[int], schema: Schema, description: str) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        type=schema,
        location=OpenApiParameter.HEADER,
        response=statuses,
        description=description,
    )


def _error(
    status: int, description: str, body: Schema = ERROR_BODY
) -> dict[tuple[int, str], OpenApiResponse]:
    """Return the response to an error: as JSON, as a page, and as text where metrics are asked."""
    return {
        (status, JSON): OpenApiResponse(body, description),
        (status, HTML): OpenApiResponse(STRING, description),
        (status, TEXT): OpenApiResponse(STRING, description),
    }


QUERY = [
    OpenApiParameter(
        name,
        type={
            "type": "array",
            "items": {**STRING, "enum": parameter.choices} if parameter.choices else NAME,
            "maxItems": MAX_VALUES,
        },
        explode=True,
        description=parameter.meaning,
    )
    for name, parameter in PARAMETERS.items()
]

HEADERS = [
    _header(
        MISSING_WORKERS,
        [200],
        STRING,
        "Names of workers that did not answer everything asked, separated by commas; absent "
        "where none. In a name, every byte of UTF-8 but printable ASCII, and each comma, "
        "space, percent sign, plus sign and backslash, is percent-encoded; decoded, it is the "
        f"name in the body. Names beyond {MAX_NAME_BYTES} bytes are left out, and a last item "
        "`+<number>` counts them.",
    ),
    _header("WWW-Authenticate", [401], STRING, "The scheme to authenticate by."),
    _header("Allow", [405], STRING, "The methods that there are."),
    _header("Retry-After", [429, 503], SECONDS, "Seconds."),
]

SNAPSHOT = OpenApiResponse(
    CeleryStatsResponse,
    "The snapshot, even with no worker. Metrics are offered where the project has installed the "
    "extra `metrics`.",
)
# Read when a schema is generated. The constructor would read them at once.
SNAPSHOT.examples = SimpleLazyObject(_examples)  # type: ignore[assignment]

ANSWERS = {
    (200, JSON): SNAPSHOT,
    (200, HTML): OpenApiResponse(STRING, "The snapshot, even with no worker."),
    **{(200, media_type): OpenApiResponse(STRING) for media_type in METRICS},
}

ERRORS = {
    **_error(
        400,
        "An unknown parameter, an unknown field, too many values or one that is too long.",
        QUERY_ERROR_BODY,
    ),
    **_error(401, "No valid credentials. Browsers are redirected to the log-in page."),
    **_error(403, "Neither staff nor support."),
    **_error(405, "Another method than GET, HEAD or OPTIONS."),
    # JSON alone: it is what is sent where no representation is acceptable.
    (406, JSON): OpenApiResponse(
        ERROR_BODY, "The format does not exist, or the Accept header excludes it."
    ),
    **_error(429, "Too many requests, by the throttles of the project."),
    **_error(503, "The broker cannot be reached, or has no remote control."),
}


def endpoint_path() -> str | None:
    """Return the path of ``celery_stats.urls``; None if it is not there or needs arguments."""
    try:
        # Without the prefix that FORCE_SCRIPT_NAME sets, as resolve() expects it.
        return "/" + reverse("celery_stats:snapshot").removeprefix(get_script_prefix())
    except NoReverseMatch:
        return None


def has_known_errors() -> bool:
    """Whether REST framework's own handler answers errors. Another may use any other shape."""
    return api_settings.EXCEPTION_HANDLER is exception_handler


def with_schema(method: Method) -> Method:
    """Describe a view's method to drf-spectacular.

    Does nothing where the project has no ``DEFAULT_SCHEMA_CLASS``, because ``extend_schema``
    needs one when it is called.
    """
    base: Any = api_settings.DEFAULT_SCHEMA_CLASS
    if base is None:
        return method

    class Schema(base):  # type: ignore[misc]
        def get_operation_id(self) -> str:
            # Operation ids are unique. For a further path, drf-spectacular makes one of the path.
            is_first = self.path == endpoint_path()
            return OPERATION_ID if is_first else str(super().get_operation_id())

        def get_response_serializers(self) -> Any:
            return {**ANSWERS, **ERRORS} if has_known_errors() else ANSWERS

    # The class that extend_schema() extends.
    method.kwargs = {"schema": Schema}  # type: ignore[attr-defined]
    return extend_schema(
        tags=["celery-stats"],
        summary=SUMMARY,
        description=DESCRIPTION,
        parameters=[*QUERY, *HEADERS],
    )(method)
