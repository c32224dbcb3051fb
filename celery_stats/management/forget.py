"""Removes a worker that was killed from the broker's list of mailboxes.

RabbitMQ does this by itself. Redis and the file system keep the name until a worker of the same
name stops cleanly.
"""

from __future__ import annotations

from celery_stats.control.configuration import find_app
from celery_stats.control.connection import ControlConnection
from celery_stats.control.exceptions import CeleryStatsError
from celery_stats.query import make_question
from celery_stats.report import ReportOptions, share_report


class NotForgotten(CeleryStatsError):
    """The worker's name was left in the broker's list, for the reason in the text."""


def forget(worker: str, options: ReportOptions) -> None:
    """Remove a worker's mailbox from the broker's list, if the worker does not answer.

    Args:
        worker: its full name.
        options: whose workers to ask, and the time-outs.

    Raises:
        NotForgotten: the worker answers, or it is not in a list that can be changed.
        CeleryStatsError: the broker cannot be asked.
    """
    question = make_question({"worker": [worker], "field": ["query_task"]})
    report = share_report(question, options)
    if worker not in report.missing:
        raise NotForgotten(f"{worker} answers")
    if report.unreadable:
        raise NotForgotten(f"a reply could not be read, and it may be that of {worker}")
    connection = ControlConnection(find_app(options.app), options.deadline)
    try:
        if not _remove(connection, worker):
            raise NotForgotten(f"the broker keeps no list that has {worker} in it")
    finally:
        connection.close()


def _remove(connection: ControlConnection, worker: str) -> bool:
    """Remove a worker's mailbox through the channel, which knows prefix, separator and database.

    Returns:
        bool: whether it was listed, and is not any more.
    """
    exchange = connection.mailbox.exchange.name
    queue = f"{worker}.{exchange}"

    def listed() -> list[tuple[str, ...]]:
        return [row for row in connection.channel.get_table(exchange) if row[-1] == queue]

    if not connection.is_virtual:
        return False
    with connection.guarded():
        rows = listed()
        for routing_key, pattern, _queue in rows:
            # kombu's virtual channels remove a binding by this method alone.
            connection.channel._delete(queue, exchange, routing_key, pattern)
        return bool(rows) and not listed()
