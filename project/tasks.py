"""Tasks as a shop might have them; they only sleep."""

from __future__ import annotations

import time
from typing import Any

from celery import Task, shared_task


@shared_task  # type: ignore[untyped-decorator]
def back_up(database: str, minutes: float) -> None:
    """Occupy a process for a long time."""
    time.sleep(minutes * 60)


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def build_report(self: Task, customer: str, *, month: str, seconds: float) -> None:
    """Occupy a process for a while, then send the next one."""
    time.sleep(seconds)
    send_again(self)


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def remind(self: Task, customer: str, *, invoice: int) -> None:
    """Be quick, then send the next one with an ETA."""
    send_again(self, countdown=600)


def send_again(task: Task, **options: Any) -> None:
    """Send the same task to the queue it came from, so that the workers stay busy."""
    request = task.request
    queue = request.delivery_info["routing_key"]
    task.apply_async(request.args, request.kwargs, queue=queue, **options)


@shared_task  # type: ignore[untyped-decorator]
def import_prices(supplier: str) -> None:
    """Fail.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{supplier} sent a price list without prices")
