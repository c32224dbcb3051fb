"""The shell command that removes a killed worker from the broker's list of mailboxes."""

from __future__ import annotations

import shlex
from typing import Any

#: Control characters with which kombu separates the parts of an entry of its binding table.
SEPARATORS = r"\006\026\006\026"


def forget_lines(app: Any, worker: str) -> tuple[str, ...]:
    """Return a sentence and the shell command that removes a worker's mailbox from Redis.

    The password of the connection is not part of the command, because terminals and logs keep what
    is printed. ``redis-cli`` reads it from ``REDISCLI_AUTH``, and the sentence says so.

    Returns:
        tuple[str, ...]: two lines; none if the broker is not Redis, because RabbitMQ forgets
        killed workers by itself, or if the name holds characters that a terminal does not show.
    """
    connection = app.connection_for_write()
    if connection.transport.driver_type != "redis" or not worker.isprintable():
        return ()
    options = app.conf.broker_transport_options or {}
    exchange = f"{app.conf.control_exchange}.pidbox"
    key = f"{options.get('global_keyprefix', '')}_kombu.binding.{exchange}"
    database = str(connection.virtual_host or "").strip("/") or "0"
    command = ["redis-cli", "-n", database]
    # Sentinels tell the address of the master, and a socket is not a host.
    if connection.transport_cls in ("redis", "rediss"):
        command += ["-h", connection.hostname or "localhost"]
        command += ["-p", str(connection.port or connection.transport.default_port)]
    if connection.transport_cls == "rediss":
        command += ["--tls"]
    entry = f"\"$(printf '{SEPARATORS}%s' {shlex.quote(f'{worker}.{exchange}')})\""
    password = (
        " (put REDISCLI_AUTH=PASSWORD before it, because the broker's URL has a password)"
        if connection.password
        else ""
    )
    return (
        f"If the process of {worker} is gone and not only frozen, this command removes its name"
        f"{password}:",
        f"{shlex.join([*command, 'SREM', key])} {entry}",
    )
