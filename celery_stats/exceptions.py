"""What can go wrong, in the domain's words, and the 503 that callers see of it."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException


class CeleryStatsError(Exception):
    """No snapshot could be taken. Its text is for the log, never for a response."""


class BrokerUnavailable(CeleryStatsError):
    """The broker cannot be reached, refused us, went away or stopped answering."""


class RemoteControlUnsupported(CeleryStatsError):
    """The broker's transport cannot broadcast, so workers cannot be asked."""


class CeleryAppNotFound(CeleryStatsError):
    """``CELERY_APP`` does not lead to a Celery app."""


class SnapshotFailed(CeleryStatsError):
    """Something unforeseen happened; it has been logged where it was caught."""


class ServiceUnavailable(APIException):
    """The one 503 of the contract: it says nothing of hosts, URLs or causes."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = _("The Celery broker is unavailable. Try again shortly.")
    default_code = "service_unavailable"
    #: Seconds; REST framework's exception handler sends it as ``Retry-After``.
    wait = 5
