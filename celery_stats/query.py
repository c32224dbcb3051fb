"""The parameters of a question: one table, and how values become a :class:`Question`.

The query of a request, the options of the command and the arguments of ``get_report()`` are read
by the same table. The published schema shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from django.http import QueryDict
from rest_framework.exceptions import ValidationError
from rest_framework.settings import api_settings

from .conf import conf
from .control.exceptions import CeleryStatsError
from .control.question import Question
from .shapes import CONTROL_RANGES, FIELDS

MAX_VALUES = 100  # of one parameter
MAX_LENGTH = 255  # characters of a value
MAX_ERRORS = 10  # parameters that one error body names
MAX_UNKNOWN_NAME = 64  # characters of an unknown parameter's name in an error body


class Parameter(NamedTuple):
    """A parameter, which may have several values.

    Attributes:
        attribute: of :class:`Question`, and the argument of ``get_report()``.
        meaning: a sentence for the schema and for the help of the command.
        metavar: what stands for a value in the help of the command; None: the choices.
        choices: the values that are accepted, in the order in which they are asked for; empty for
            any text.
    """

    attribute: str
    meaning: str
    metavar: str | None = None
    choices: Sequence[str] = ()


PARAMETERS: Mapping[str, Parameter] = {
    "task_id": Parameter(
        "task_ids", "Look these tasks up: they are the ids of `query_task`.", metavar="ID"
    ),
    "worker": Parameter("workers", "Ask only these workers, by full name.", metavar="NAME"),
    "field": Parameter(
        "fields",
        "Ask only for these; the others are null and are not asked for.",
        choices=FIELDS,
    ),
}

# Lone surrogates are refused as well. The published pattern does not name them, because JavaScript
# sees a character beyond U+FFFF as a pair of surrogates.
_REFUSED = re.compile(rf"[{CONTROL_RANGES}\ud800-\udfff]")


class WrongQuestion(CeleryStatsError, ValueError):
    """A parameter has a value that is not accepted.

    Attributes:
        errors: parameter to what is wrong. The texts do not repeat the values.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.errors = errors
        super().__init__(errors)

    def __str__(self) -> str:
        return " ".join(f"{name}: {text}" for name, text in self.errors.items())


def make_question(values: Mapping[str, Sequence[str]]) -> Question:
    """Return the question for the values of parameters, without duplicate values.

    The values of a parameter with choices get the order of the choices, and others keep theirs.
    A parameter without values has the default of its attribute.

    Raises:
        WrongQuestion: a value is not accepted.
    """
    errors = {name: text for name, given in values.items() if (text := _mistake(name, given))}
    if errors:
        raise WrongQuestion(errors)
    asked: dict[str, Any] = {}
    for name, given in values.items():
        if given:
            known = PARAMETERS[name].choices or dict.fromkeys(given)
            asked[PARAMETERS[name].attribute] = tuple(value for value in known if value in given)
    return Question(**asked)


def parse_question(
    params: QueryDict, make: Callable[[Mapping[str, Sequence[str]]], Question] = make_question
) -> Question:
    """Return the question that query parameters ask, as ``make`` makes it of their values.

    Raises:
        ValidationError: ``{"<parameter>": ["<what is wrong>"]}`` for each wrong parameter.
    """
    foreign = foreign_parameters()
    unknown = [name for name in params if name not in PARAMETERS and name not in foreign]
    override = api_settings.URL_FORMAT_OVERRIDE
    known = ", ".join([*PARAMETERS, override] if override else PARAMETERS)
    errors = {_shorten(name): [f"Unknown parameter; known are: {known}."] for name in unknown}
    try:
        question = make({name: params.getlist(name) for name in PARAMETERS})
    except WrongQuestion as exc:
        errors = {**{name: [text] for name, text in exc.errors.items()}, **errors}
    if errors:
        raise ValidationError(dict(list(errors.items())[:MAX_ERRORS]))
    return question


def _mistake(name: str, given: Sequence[str]) -> str:
    """Return what is wrong with the values of a parameter; empty if nothing is."""
    if isinstance(given, str) or not all(isinstance(value, str) for value in given):
        return "Several texts are expected, as in a list."
    if len(given) > MAX_VALUES:
        return f"At most {MAX_VALUES} values are allowed."
    choices = PARAMETERS[name].choices
    for value in given:
        if not value:
            return "A value may not be empty."
        if len(value) > MAX_LENGTH:
            return f"A value may have at most {MAX_LENGTH} characters."
        if _REFUSED.search(value):
            return "A value may not hold control characters."
        if choices and value not in choices:
            several = f" Write several as {name}=active&{name}=stats." if "," in value else ""
            return f"Unknown {name}; known are: {', '.join(choices)}.{several}"
    return ""


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


def _shorten(name: str) -> str:
    """Return a parameter's name as an error body repeats it: cut, without lone surrogates."""
    printable = name.encode("utf-8", "replace").decode()
    return printable if len(printable) <= MAX_UNKNOWN_NAME else f"{printable[:MAX_UNKNOWN_NAME]}…"
