"""Contexts of ``message.html``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .text import TITLE_LENGTH, shorten


def error_message(data: Any, status: int, visitor: str, log_in: str) -> dict[str, Any]:
    """Return the context of ``message.html`` for a request that is answered with an error.

    Args:
        data: the error as REST framework describes it: ``{"<parameter>": ["…"]}`` for a wrong
            query, and ``{"detail": "…"}`` otherwise. The latter is not shown, because it is in
            the language of the project.
        status: the HTTP status.
        visitor: the name of the user who is logged in to the project; empty for nobody.
        log_in: the address where the visitor can log in as somebody else.
    """
    user = f"You are logged in as {shorten(visitor).shown}." if visitor else ""
    heading, *sentences = {
        400: ["The address asks for something that this page does not know"],
        401: [
            "Your session is not accepted here",
            user,
            "This project asks for other credentials, such as a token.",
        ],
        403: [
            "You may not see this page",
            user,
            "Your account does not have the permission. An administrator of this site can "
            "grant it.",
        ],
        429: ["Too many requests", "Wait a moment, then load the page again."],
    }.get(status, ["The page cannot be shown"])
    messages = [("", sentence) for sentence in sentences if sentence]
    if status == 400:
        messages = [(shorten(name).shown, shorten(text).shown) for name, text in texts(data)]
    return {
        "state": "refused",
        "heading": heading,
        "messages": messages,
        "link": {400: "Show everything", 403: "Log in as somebody else" if log_in else ""}.get(
            status, ""
        ),
        "address": log_in if status == 403 else "?",
    }


def texts(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each text in an error and its name, whatever shape the project's handler gives it.

    The name is that of a wrong parameter, for example. The text of a "detail" has none.
    """
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from texts(value, "" if key == "detail" else str(key))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from texts(value, name)
    else:
        yield name, data


def options_message(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context of ``message.html`` for the answer to OPTIONS."""
    kinds_by_name = {"Answers with": data.get("renders"), "Reads": data.get("parses")}
    return {
        "state": "about",
        "heading": shorten(data.get("name", "")).shown,
        "messages": [
            ("", shorten(data.get("description", ""), TITLE_LENGTH).shown),
            *((name, ", ".join(kinds)) for name, kinds in kinds_by_name.items() if kinds),
        ],
        "link": "Open the page",
        "address": "?",
    }
