"""Visits the endpoint from inside a project: ``python - < visit.py``, with the project's Python.

Prints as JSON what it saw. ``VISIT`` in the environment holds, as JSON, the paths to get and the
users to be, name to the fields of the user model; where there are some, their groups by name, and
the path that gives them tokens, and what stands before a token in the header.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

asked = json.loads(os.environ["VISIT"])
connected: list[str] = []


def hook(event: str, args: Any) -> None:
    if event == "socket.connect":
        connected.append(repr(args[1]))


sys.addaudithook(hook)

import celery_stats  # noqa: E402

parents = ("celery", "django", "kombu", "redis", "rest_framework")
seen: dict[str, Any] = {
    "file": celery_stats.__file__,
    "imported": [name for name in parents if name in sys.modules],
}

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import get_resolver  # noqa: E402

call_command("check", fail_level="WARNING", stdout=sys.stderr)
assert get_resolver().url_patterns
seen["at_start"] = {"connected": list(connected), "threads": threading.active_count()}

call_command("migrate", verbosity=0)
User = get_user_model()


def visit(user: str | None, path: str) -> list[Any]:
    client = Client(raise_request_exception=False, HTTP_HOST="localhost")
    headers = {}
    if user is not None:
        fields = asked["users"][user]
        password = fields.get("password")
        names = {User.USERNAME_FIELD: fields[User.USERNAME_FIELD]}
        found = User.objects.filter(**names).first() or User.objects.create_user(**fields)
        if user in asked.get("groups", {}):
            found.groups.get_or_create(name=asked["groups"][user])
        if "token" in asked:
            data = {**names, "password": password}
            tokens = client.post(asked["token"], data, "application/json").json()
            token = tokens.get("access") or tokens["token"]
            headers["HTTP_AUTHORIZATION"] = f"{asked.get('scheme', 'Bearer')} {token}"
        else:
            client.force_login(found)
    response = client.get(path, HTTP_ACCEPT="application/json", **headers)
    body = json.loads(response.content)
    workers = list(body["stats"] or ()) if response.status_code == 200 else None
    return [response.status_code, workers]


seen["answers"] = {
    path: {user or "anonymous": visit(user, path) for user in (None, *asked["users"])}
    for path in asked["paths"]
}
print(json.dumps(seen))
