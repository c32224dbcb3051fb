"""kombu's file-system transport, made safe for several processes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Writes messages whole, and takes its mailbox along when it goes.

    kombu's own lets a reader take a file before its text is in it: that message, or the
    table of bindings, is lost, and the worker that took it ends with a JSONDecodeError. And it
    leaves the mailboxes of stopped workers bound, so that they look like silent ones.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._auto_delete: set[str] = set()

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        if auto_delete:
            self._auto_delete.add(queue)

    def close(self) -> None:
        if not self.closed:
            for queue in self._auto_delete:
                self.queue_delete(queue)
        super().close()

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        # kombu writes a new table into a file that others can read already: it comes first.
        table = Path(self.control_folder, f"{exchange}.exchange")
        table.parent.mkdir(exist_ok=True)
        draft = table.with_name(f"{uuid4()}.draft")
        draft.write_text("[]")
        with suppress(FileExistsError):
            table.hardlink_to(draft)
        draft.unlink()
        super()._queue_bind(exchange, *args)

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        name = f"{time.monotonic_ns()}_{uuid4()}"
        draft = Path(self.data_folder_out, f"{name}.draft")
        draft.write_text(dumps(payload))
        draft.rename(draft.with_name(f"{name}.{queue}.msg"))


class Transport(filesystem.Transport):  # type: ignore[misc]
    """For ``broker_transport``."""

    Channel = Channel
