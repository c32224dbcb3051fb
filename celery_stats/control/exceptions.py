"""What can go wrong while the workers are asked."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

#: Commands and keys for which it was logged that the broker refuses them to this user.
_refusals_logged: set[tuple[str, str]] = set()
_MAX_REFUSALS_LOGGED = 200


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


def log_refusal(command: str, key: str, error: Exception) -> None:
    """Log once that the broker refuses a command for a key, a queue or a channel."""
    refused = command, key
    if refused not in _refusals_logged and len(_refusals_logged) < _MAX_REFUSALS_LOGGED:
        _refusals_logged.add(refused)
        name = type(error).__name__
        logger.warning("The broker refused %s of %r: %s (see docs/production.md)", *refused, name)
