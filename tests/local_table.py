"""A transport whose table of bindings is local to the process, as gcpubsub's and pgmq's are."""

from __future__ import annotations

from typing import Any

from kombu.transport import virtual

from project import filesystem


class Channel(filesystem.Channel):
    """Delivers to every mailbox, and shows the asker an empty table."""

    get_table = virtual.Channel.get_table

    def _put_fanout(self, exchange: str, payload: Any, routing_key: str, **kwargs: Any) -> None:
        for binding in filesystem.Channel.get_table(self, exchange):
            self._put(binding.queue, payload, **kwargs)


class Transport(filesystem.Transport):
    """For ``broker_transport``."""

    Channel = Channel
