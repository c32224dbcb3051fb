"""Result backends for what real ones do not do on demand."""

from __future__ import annotations

import json
import threading
from typing import Any

from celery.backends.base import KeyValueStoreBackend
from django.db import connections

SUCCESS = json.dumps({"status": "SUCCESS", "result": None})

#: Set it to let a :class:`Hanging` backend end.
go_on = threading.Event()
#: The database connections that :class:`InDatabase` has opened.
opened: list[Any] = []


class Hanging(KeyValueStoreBackend):  # type: ignore[misc]
    """Does not answer before it may."""

    def get(self, key: str) -> str:
        go_on.wait(30)
        return SUCCESS


class InDatabase(KeyValueStoreBackend):  # type: ignore[misc]
    """Opens a connection of Django's in the thread that asks, as django-celery-results does."""

    def get(self, key: str) -> str:
        connection = connections["results"]
        connection.ensure_connection()
        opened.append(connection)
        return SUCCESS
