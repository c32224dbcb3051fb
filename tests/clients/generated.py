"""Reads the endpoint with the client that openapi-python-client makes of the schema.

Fails where that client has fallen back to a raw value, or knows no name for one. Prints,
as JSON, the body and how many objects of each class it became.

python generated.py BASE_URL TOKEN TASK_ID...
"""

import json
import sys
from collections import Counter
from datetime import datetime

import attrs
from celery_stats_client import AuthenticatedClient
from celery_stats_client.api.celery_stats import celery_stats_retrieve
from celery_stats_client.models import (
    CeleryBroker,
    CeleryBrokerTransportOptionsType0,
    CeleryNotAvailable,
    CeleryScheduledTask,
    CeleryStatsResponse,
    CeleryTask,
    CeleryTaskDeliveryInfo,
    CeleryTaskKwargsType0,
    CeleryTaskStates,
    CeleryWorkerError,
    CeleryWorkerPool,
    CeleryWorkerPoolWrites,
    CeleryWorkerStats,
    CeleryWorkerStatsRusage,
)

# What callers and operators put there has no schema.
FREE = (CeleryTaskKwargsType0, CeleryBrokerTransportOptionsType0)

seen = Counter()


def check(value, path):
    """Walk through everything that the schema describes."""
    if attrs.has(type(value)):
        seen[type(value).__name__] += 1
        if isinstance(value, FREE):
            return
        names = [field.name for field in attrs.fields(type(value))]
        if names == ["additional_properties"]:  # a map: worker name to reply, say
            for key in value.additional_keys:
                check(value[key], f"{path}[{key!r}]")
            return
        for name in names:
            if name == "additional_properties":
                assert not value.additional_properties, f"{path}: keys without a name"
            elif not (isinstance(value, CeleryTask) and name == "args"):
                check(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check(item, f"{path}[{index}]")
    else:
        assert not isinstance(value, dict), f"{path}: a raw object"


base_url, token, *task_ids = sys.argv[1:]
client = AuthenticatedClient(base_url=base_url, token=token, prefix="Token")
response = celery_stats_retrieve.sync_detailed(client=client, task_id=task_ids)
snapshot = response.parsed
assert isinstance(snapshot, CeleryStatsResponse), response
check(snapshot, "snapshot")

for worker in snapshot.stats.additional_keys:
    for task in [*snapshot.active[worker], *snapshot.reserved[worker]]:
        assert isinstance(task, CeleryTask)
        assert isinstance(task.kwargs, CeleryTaskKwargsType0)
        assert isinstance(task.delivery_info, CeleryTaskDeliveryInfo)
    for scheduled in snapshot.scheduled[worker]:
        assert isinstance(scheduled, CeleryScheduledTask)
        assert isinstance(scheduled.eta, datetime)
        assert isinstance(scheduled.request, CeleryTask)
    assert all(isinstance(task_id, str) for task_id in snapshot.revoked[worker])
    states = snapshot.query_task[worker]
    assert isinstance(states, CeleryTaskStates)
    for task_id in states.additional_keys:
        state, task = states[task_id]
        assert state in ("active", "reserved", "scheduled", "ready")
        assert isinstance(task, CeleryTask)
    stats = snapshot.stats[worker]
    if isinstance(stats, CeleryWorkerError):
        continue
    assert isinstance(stats, CeleryWorkerStats)
    assert isinstance(stats.broker, CeleryBroker)
    assert isinstance(stats.rusage, CeleryWorkerStatsRusage)
    assert isinstance(stats.pool, CeleryWorkerPool)
    if "prefork" in stats.pool.implementation:
        assert stats.pool.max_tasks_per_child is CeleryNotAvailable.NA
        assert isinstance(stats.pool.writes, CeleryWorkerPoolWrites)

body = json.loads(response.content)
assert snapshot.to_dict() == body, "something is lost on the way"
json.dump({"body": body, "seen": seen}, sys.stdout)
