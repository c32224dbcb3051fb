"""The 503 that callers see when no snapshot could be taken."""

from __future__ import annotations

from rest_framework import status
from rest_framework.exceptions import APIException


class ServiceUnavailable(APIException):
    """The one 503 of the contract: it says nothing of hosts, URLs or causes."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The Celery broker is unavailable. Try again shortly."
    default_code = "service_unavailable"
    #: Seconds; REST framework's exception handler sends it as ``Retry-After``.
    wait = 5
