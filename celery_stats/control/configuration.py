"""What the Celery app's configuration says about the broker. Nothing is connected here."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from celery import Celery
from celery.app import app_or_default
from kombu import Connection
from kombu.transport import virtual
from kombu.utils.imports import symbol_by_name

from .exceptions import BrokerUnavailable, CeleryAppNotFound, RemoteControlUnsupported

#: Seconds between two reads of a broker that cannot notify its readers (the file system).
POLLING_INTERVAL = 0.005

#: How many exchanges redis-py may need to connect. They are bounded one by one, so all of them
#: have to end within a second after the deadline.
EXCHANGES = 8

#: The largest TCP segment size that Linux lets a program set. Setting it does not change a
#: connected socket.
MAX_SEGMENT = 32767


def find_app(app: Celery | str | None) -> Celery:
    """Return the app, or that of a dotted path (``"project.celery:app"``), or the current one.

    Raises:
        CeleryAppNotFound: the path leads to nothing, or to something else.
    """
    if app is None:
        return app_or_default()
    if isinstance(app, str):
        try:
            app = symbol_by_name(app)
        except (ImportError, AttributeError, TypeError, ValueError) as exc:
            raise CeleryAppNotFound(f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(app, Celery):
        raise CeleryAppNotFound(f"a {type(app).__name__} is not a Celery app")
    return app


@dataclass(frozen=True)
class Configured:
    """A connection that is not open, and what is known of its transport.

    Attributes:
        driver: kombu's name for what the transport speaks, such as ``"redis"``.
        is_virtual: whether kombu itself keeps exchanges and queues on it, as on all but AMQP.
        urls: those of all addresses, with passwords, so that they can be masked in errors.
        exchange_timeout: seconds that one exchange may take while the connection is opened.
    """

    connection: Connection
    driver: str
    is_virtual: bool
    urls: tuple[str, ...]
    exchange_timeout: float


def configure(app: Celery, deadline: float) -> Configured:
    """Return a connection whose exchanges have time-outs.

    Args:
        deadline: seconds for all attempts to connect, and for what follows.

    Raises:
        CeleryAppNotFound, BrokerUnavailable, RemoteControlUnsupported: see
            :func:`configured_connection`.
    """
    connection = configured_connection(app)
    connecting = deadline / ((len(connection.alt) or 1) + 1)
    seconds = min(connecting, (deadline + 1) / EXCHANGES)
    connection.connect_timeout = min(connecting, app.conf.broker_connection_timeout or connecting)
    try:
        transport = connection.get_transport_cls()
        # First, because the rest creates the transport.
        set_options(connection, transport, seconds)
        urls = broker_urls(connection)
        exchange_types = connection.transport.implements.exchange_type
    except (ImportError, KeyError) as exc:
        raise RemoteControlUnsupported(f"{type(exc).__name__}: {exc}") from exc
    except ValueError as exc:
        raise unreadable_url() from exc
    if "fanout" not in exchange_types:
        raise RemoteControlUnsupported(f"{transport.driver_type} cannot broadcast to workers")
    is_virtual = issubclass(transport, virtual.Transport)
    return Configured(connection, transport.driver_type, is_virtual, urls, seconds)


def configured_connection(app: Celery) -> Connection:
    """Return a connection as the app's configuration describes it, not opened.

    Raises:
        CeleryAppNotFound: the configuration cannot be imported.
        BrokerUnavailable: the configuration names no broker, or its URL cannot be read.
        RemoteControlUnsupported: there is no such transport, or it cannot be imported.
    """
    try:
        is_configured = app.conf.broker_write_url or app.conf.broker_transport
    except ImportError as exc:  # Celery imports the configuration at its first use.
        raise CeleryAppNotFound(f"{type(exc).__name__}: {exc}") from exc
    if not is_configured:
        # Celery would try amqp://guest@localhost. An app without any broker setting is most
        # likely Celery's default app, and not the one of the project.
        raise BrokerUnavailable(f"the Celery app {app.main!r} names no broker")
    try:
        return app.connection_for_write()
    except (ImportError, KeyError) as exc:  # KeyError: kombu knows no transport of this name.
        raise RemoteControlUnsupported(f"{type(exc).__name__}: {exc}") from exc
    except ValueError as exc:
        raise unreadable_url() from exc


def unreadable_url() -> BrokerUnavailable:
    """Return the error for a broker URL that kombu cannot parse.

    It does not quote kombu's message, which may hold a part of the password: that of
    ``redis://:pa/ss@host``, for example.
    """
    return BrokerUnavailable("the broker's URL cannot be read")


def set_options(connection: Connection, transport: type[Any], seconds: float) -> None:
    """Give exchanges with the broker a time-out where kombu's transport has an option for it.

    kombu reads them when it creates the transport of the connection.

    Args:
        seconds: what one exchange may take. A shorter time-out of the configuration is kept.
    """
    options = connection.transport_options
    if transport.driver_type == "redis":
        options.update(_redis_timeouts(options, seconds), retry_on_timeout=False)
        # The sentinels are asked by a client of its own, which would try each sentinel that is
        # down for seconds.
        asking = options.get("sentinel_kwargs") or {}
        options["sentinel_kwargs"] = {**asking, **_redis_timeouts(asking, seconds), "retry": None}
    elif issubclass(transport, virtual.Transport):
        options["polling_interval"] = POLLING_INTERVAL
    elif transport.driver_type == "amqp" and sys.platform == "linux":
        # py-amqp reads the TCP options of a connected socket and sets them again. On loopback the
        # segment size that it reads can be larger than the largest one that can be set.
        largest = {socket.TCP_MAXSEG: MAX_SEGMENT}
        options["socket_settings"] = {**largest, **(options.get("socket_settings") or {})}


def _redis_timeouts(options: Mapping[str, Any], seconds: float) -> dict[str, float]:
    names = ("socket_timeout", "socket_connect_timeout")
    return {name: min(seconds, options.get(name) or seconds) for name in names}


def broker_urls(connection: Connection) -> tuple[str, ...]:
    """Return the URLs of a connection with their passwords, those of fail-over included.

    They are needed to mask the passwords in error messages. The password of Redis sentinels is
    among them, as the URL of a sentinel, because redis-py 6 and 7 quote it in the error when no
    master is found.
    """
    urls = [*connection.alt]
    with suppress(ImportError, KeyError, ValueError):  # The transport cannot be imported.
        urls.append(connection.as_uri(include_password=True))
    asking = connection.transport_options.get("sentinel_kwargs") or {}
    if asking.get("password"):
        urls.append(f"sentinel://:{quote(asking['password'], safe='')}@")
    return tuple(urls)
