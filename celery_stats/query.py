"""Read the question from the query parameters."""

from __future__ import annotations

import re
from typing import Any

from django.http import QueryDict
from rest_framework.exceptions import ValidationError
from rest_framework.settings import api_settings

from .conf import PARAMETERS, conf
from .control.question import FIELDS, Question

MAX_VALUES = 100  # of one parameter
MAX_LENGTH = 255  # characters of a value
MAX_ERRORS = 10  # parameters that one error body names
MAX_NAME = 64  # characters of an unknown parameter's name in an error body

#: Control characters, as part of a regular expression. No worker's name and no task id holds one.
#: They are refused, because they must reach neither the broker nor a header.
CONTROL = r"\u0000-\u001f\u007f-\u009f"
# Lone surrogates are refused as well. The published pattern does not name them, because JavaScript
# sees a character beyond U+FFFF as a pair of surrogates.
_REFUSED = re.compile(rf"[{CONTROL}\ud800-\udfff]")


def foreign_parameters() -> set[str]:
    """Return the names of parameters that REST framework or other parts of the project read."""
    names = set(conf.ignored_parameters)
    if api_settings.URL_FORMAT_OVERRIDE:
        names.add(api_settings.URL_FORMAT_OVERRIDE)
    versioning: Any = api_settings.DEFAULT_VERSIONING_CLASS  # The stubs type the class as a path.
    if versioning is not None:
        # Imported here, because the command uses this module, and most projects have no versions.
        # The import takes longer than that of the rest of this module.
        from rest_framework.versioning import QueryParameterVersioning

        if issubclass(versioning, QueryParameterVersioning):
            # The attribute of the class instead of the setting, because a subclass may change it.
            names.add(versioning.version_param)
    return names


def parse_question(params: QueryDict) -> Question:
    """Return the question that query parameters ask, without duplicate values.

    Ids and workers keep their order. Fields have the order of ``FIELDS``.

    Raises:
        ValidationError: ``{"<parameter>": ["<what is wrong>"]}`` for each wrong parameter.
    """
    errors: dict[str, list[str]] = {}
    values: dict[str, tuple[str, ...]] = dict.fromkeys(PARAMETERS, ())
    foreign = foreign_parameters()
    for name, given in params.lists():
        if name in values:
            try:
                values[name] = _clean(name, given)
            except ValueError as error:
                errors[name] = [str(error)]
        elif name not in foreign:
            override = api_settings.URL_FORMAT_OVERRIDE
            known = ", ".join([*PARAMETERS, override] if override else PARAMETERS)
            errors[_shorten(name)] = [f"Unknown parameter; known are: {known}."]
        if len(errors) == MAX_ERRORS:
            break
    if errors:
        raise ValidationError(errors)
    asked = values["field"]
    return Question(
        fields=tuple(field for field in FIELDS if field in asked) if asked else FIELDS,
        task_ids=values["task_id"],
        workers=values["worker"],
    )


def _clean(name: str, given: list[str]) -> tuple[str, ...]:
    """Return the values of one parameter without duplicates.

    Raises:
        ValueError: a value is refused. The text is for the caller and does not repeat the value.
    """
    if len(given) > MAX_VALUES:
        raise ValueError(f"At most {MAX_VALUES} values are allowed.")
    for value in given:
        if not value:
            raise ValueError("A value may not be empty.")
        if len(value) > MAX_LENGTH:
            raise ValueError(f"A value may have at most {MAX_LENGTH} characters.")
        if _REFUSED.search(value):
            raise ValueError("A value may not hold control characters.")
        if name == "field" and value not in FIELDS:
            several = " Write several as field=active&field=stats." if "," in value else ""
            raise ValueError(f"Unknown field; known are: {', '.join(FIELDS)}.{several}")
    return tuple(dict.fromkeys(given))


def _shorten(name: str) -> str:
    """Return a parameter's name as an error body repeats it: cut, without lone surrogates."""
    printable = name.encode("utf-8", "replace").decode()
    return printable if len(printable) <= MAX_NAME else f"{printable[:MAX_NAME]}…"
