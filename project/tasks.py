"""Tasks as a shop might have them; they only sleep."""

from __future__ import annotations

import time

from celery import shared_task


@shared_task  # type: ignore[untyped-decorator]
def back_up(database: str, minutes: float) -> None:
    """Occupy a process for a long time."""
    time.sleep(minutes * 60)


@shared_task  # type: ignore[untyped-decorator]
def build_report(customer: str, *, month: str, seconds: float) -> None:
    """Occupy a process for a while."""
    time.sleep(seconds)


@shared_task  # type: ignore[untyped-decorator]
def remind(customer: str, *, invoice: int) -> None:
    """Be quick; meant to be sent with an ETA."""
    time.sleep(0.5)


@shared_task  # type: ignore[untyped-decorator]
def import_prices(supplier: str) -> None:
    """Fail.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{supplier} sent a price list without prices")
