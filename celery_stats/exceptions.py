"""The errors that callers see, each with its status and text."""

from __future__ import annotations

from collections.abc import Sequence

from rest_framework import status
from rest_framework.exceptions import APIException, NotAcceptable
from rest_framework.renderers import BaseRenderer


class ServiceUnavailable(APIException):
    """The 503 where no snapshot could be taken. It names no host, URL or cause."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The Celery broker is unavailable. Try again shortly."
    default_code = "service_unavailable"
    #: Seconds; REST framework's exception handler sends it as ``Retry-After``.
    wait = 5


class NoSuchRepresentation(NotAcceptable):
    """The 406 where no renderer fits the request. It says which formats there are.

    Args:
        wanted: the format that the URL names; None where it names none.
        renderers: those of the view.
    """

    def __init__(self, wanted: str | None, renderers: Sequence[BaseRenderer]) -> None:
        offer = ", ".join(f"{renderer.format} ({renderer.media_type})" for renderer in renderers)
        if wanted is None:
            detail = f"The Accept header excludes every format on offer: {offer}."
        elif wanted not in {renderer.format for renderer in renderers}:
            detail = f"There is no such format. On offer are: {offer}."
        else:
            detail = f"The Accept header excludes the format {wanted}. On offer are: {offer}."
        super().__init__(detail)
