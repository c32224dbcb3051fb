"""Recorded answers, for what real workers do not do on demand."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from typing import Any

from celery_stats.masking import answers
from celery_stats.shapes import FIELDS

#: As with the default settings.
mask = partial(answers.mask, redact=True, hide_arguments=False)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)

TASK: dict[str, Any] = {
    "id": "82639d59-6704-4719-940c-b5595a8570f7",
    "name": "reports.build",
    "args": [2026, "March"],
    "kwargs": {"draft": True},
    "type": "reports.build",
    "hostname": "a@h",
    "time_start": NOW.timestamp() - 65,
    "acknowledged": True,
    "delivery_info": {"exchange": "", "routing_key": "reports", "priority": 0},
    "worker_pid": 7,
}
STATS: dict[str, Any] = {
    "total": {"reports.build": 1200, "mail.send": 300},
    "pid": 5,
    "clock": "27",
    "uptime": 93784,
    "pool": {
        "implementation": "celery.concurrency.prefork:TaskPool",
        "max-concurrency": 4,
        "processes": [7, 8, 9, 10],
        "writes": {"inqueues": {"total": 4}},
    },
    "broker": {"hostname": "broker.internal", "transport_options": {"sentinel_kwargs": {}}},
    "prefetch_count": 16,
    "rusage": {"utime": 0.1 + 0.2, "maxrss": 56452},
    "gossip": {"peers": 3},
}
ANSWERS: dict[str, Any] = {
    "active": {"a@h": [TASK]},
    "scheduled": {"a@h": []},
    "reserved": {"a@h": []},
    "revoked": {"a@h": []},
    "query_task": {"a@h": {}},
    "stats": {"a@h": STATS},
}
EMPTY: dict[str, Any] = dict.fromkeys(FIELDS)

#: A name that is dangerous in every place where it is not escaped.
HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7|add:7 }}{% now %}&amp;"
