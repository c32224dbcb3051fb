"""The question, read from the query parameters."""

from __future__ import annotations

import re
from typing import Any

from django.http import QueryDict
from rest_framework.exceptions import ValidationError
from rest_framework.settings import api_settings

from .conf import PARAMETERS, conf
from .control.question import FIELDS, Question

MAX_VALUES = 100
MAX_LENGTH = 255
#: Parameters named in one error body, and characters of a name that is not ours.
MAX_ERRORS = 10
MAX_NAME = 64

# Control characters: no name or id has them, and they must reach neither broker nor header.
CONTROL = r"\u0000-\u001f\u007f-\u009f"
# Lone surrogates as well; not in the published pattern, as JavaScript sees pairs of them.
_REFUSED = re.compile(rf"[{CONTROL}\ud800-\udfff]")


def foreign_parameters() -> frozenset[str]:
    """Return the parameters that belong to REST framework or to other parts of the project."""
    names = set(conf.ignored_parameters)
    if api_settings.URL_FORMAT_OVERRIDE:
        names.add(api_settings.URL_FORMAT_OVERRIDE)
    versioning: Any = api_settings.DEFAULT_VERSIONING_CLASS  # the class; stubs say its path
    if versioning is not None:
        # Imported here: it costs a probe by the command more than the rest of this module.
        from rest_framework.versioning import QueryParameterVersioning

        if issubclass(versioning, QueryParameterVersioning):
            # The class's, not the setting's: a subclass may have a name of its own.
            names.add(versioning.version_param)
    return frozenset(names)


def parse_question(params: QueryDict) -> Question:
    """Read ``request.query_params``.

    Returns:
        Question: values without duplicates; ids and workers in the order given, fields in
        that of ``FIELDS``.

    Raises:
        ValidationError: ``{"<parameter>": ["..."]}`` for the parameters at fault.
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
            errors[_shorten(name)] = [f"Unknown parameter; known are: {_known()}."]
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
    """The values of one parameter, without duplicates.

    Raises:
        ValueError: with a message for the caller, which never repeats the value.
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


def _known() -> str:
    """The parameters that callers may use; those of IGNORED_PARAMETERS do nothing here."""
    override = api_settings.URL_FORMAT_OVERRIDE
    return ", ".join([*PARAMETERS, override] if override else PARAMETERS)


def _shorten(name: str) -> str:
    """A parameter's name fit to be repeated in an error body."""
    printable = name.encode("utf-8", "replace").decode()
    return printable if len(printable) <= MAX_NAME else f"{printable[:MAX_NAME]}…"
