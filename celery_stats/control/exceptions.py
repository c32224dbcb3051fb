"""What can go wrong while the workers are asked."""

from __future__ import annotations


class CeleryStatsError(Exception):
    """No snapshot could be taken. Its text is for the log, never for a response.

    Attributes:
        urls: the broker URLs whose passwords the text may quote. Mask them before logging it.
    """

    urls: tuple[str, ...] = ()


class BrokerUnavailable(CeleryStatsError):
    """The broker cannot be reached, refused the connection, closed it or does not answer."""


class RemoteControlUnsupported(CeleryStatsError):
    """The broker's transport cannot broadcast, so workers cannot be asked."""


class CeleryAppNotFound(CeleryStatsError):
    """``CELERY_APP`` does not lead to a Celery app, or its configuration cannot be imported."""


class SnapshotFailed(CeleryStatsError):
    """An unexpected error. The text names it, and the lines of code that led to it."""
