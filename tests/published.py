"""The reviewed schema, and how an answer is validated against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REVIEWED = Path(__file__).with_name("schema.yml")


def load() -> dict[str, Any]:
    return yaml.safe_load(REVIEWED.read_text())


def validator(schema: dict[str, Any], name: str = "CeleryStatsResponse") -> Any:
    """Return jsonschema's validator of a schema's component."""
    # Every process of the tests imports this module, and few validate.
    from openapi_schema_validator import OAS30Validator, OAS31Validator

    kind = OAS30Validator if schema["openapi"].startswith("3.0") else OAS31Validator
    return kind(
        {"$ref": f"#/components/schemas/{name}", "components": schema["components"]},
        format_checker=kind.FORMAT_CHECKER,
    )


def problems(answer: Any, schema: dict[str, Any], name: str = "CeleryStatsResponse") -> list[str]:
    """Return what is wrong with an answer, by a schema's component; empty where it is valid."""
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator(schema, name).iter_errors(answer)
    ]
