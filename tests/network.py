"""A network that can fail: TCP hops on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """A TCP hop on loopback that can fall silent or be cut, or be slow.

    Attributes:
        delay: seconds by which everything that the broker says comes late.
        said: for each connection, in the order of connecting, what was sent to the broker.
    """

    def __init__(self, port: int, *, listen: int = 0) -> None:
        self.target = port
        self.delay = 0.0
        self.said: list[bytearray] = []
        self.passes = threading.Event()
        self.passes.set()
        self.hears = threading.Event()
        self.hears.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self._pairs.append((near, far))
            self.said.append(bytearray())
            for args in ((near, far, self.hears, self.said[-1]), (far, near, self.passes, None)):
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        gate: threading.Event,
        said: bytearray | None,
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if said is None:
                    time.sleep(self.delay)
                else:
                    said += data
                self.passes.wait()
                gate.wait()
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Accept everything, pass nothing."""
        self.passes.clear()

    def deafen(self) -> None:
        """Pass nothing to the broker; what it says still arrives."""
        self.hears.clear()

    def thaw(self) -> None:
        self.passes.set()
        self.hears.set()

    def inject(self, data: bytes) -> None:
        """Send to all who are connected what the broker never said."""
        # A copy, because who reads it may connect again while others still get it.
        for near, _ in self._pairs.copy():
            with suppress(OSError):  # those who have left
                near.sendall(data)

    @property
    def far_ports(self) -> set[int]:
        """The ports from which the broker sees those who are connected."""
        return {far.getsockname()[1] for _, far in self._pairs if far.fileno() >= 0}

    def cut(self) -> None:
        """Break what is connected."""
        pairs, self._pairs = self._pairs, []  # others may be connecting
        for pair in pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        self.thaw()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])
