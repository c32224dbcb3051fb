"""Processes of the tests' own, ended for certain."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def wait_until(condition: Callable[[], Any], *, seconds: float = 15.0, what: str = "") -> Any:
    """Return the first true value of ``condition``; fail after ``seconds``."""
    ends = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_python(code: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, with the settings of the tests."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Forked:
    """A program that a fork server has started; as much of Popen as is used of it.

    Args:
        program: one of those of ``tests/fork_server.py``.
        args: its arguments.
        env: its whole environment.
        stdin, stdout, stderr: file descriptors, which stay open here.
    """

    def __init__(
        self,
        program: str,
        args: list[str],
        *,
        env: dict[str, str],
        stdout: int,
        stderr: int,
        stdin: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        server = fork_server(program)
        self._status, status = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        order = json.dumps({"args": args, "env": env}).encode()
        fds = [null if stdin is None else stdin, stdout, stderr, status]
        socket.send_fds(server, [order], fds)
        os.close(null)
        os.close(status)
        self.pid = int(server.recv(32))

    def poll(self) -> int | None:
        return self._find_status(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._find_status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def _find_status(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            # Nothing is written if the server has ended, which kills its processes.
            self.returncode = int(os.read(self._status, 32) or -signal.SIGKILL)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # The server reaps a process before it writes the status.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def fork_server(program: str) -> socket.socket:
    """Return the socket of this process's server of a program; see ``tests/fork_server.py``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", program],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            stdin=theirs,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()  # It ends with its input.
        server.wait()  # Python would complain of a process that still runs.

    atexit.register(end)
    return ours


class Process:
    """A process of the tests' own, ended for certain."""

    def __init__(self, args: list[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self.popen = self._run(args, {**os.environ, **(env or {})})

    def _run(self, args: list[str], env: dict[str, str]) -> subprocess.Popen[bytes] | Forked:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                args,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.popen.kill()  # One that was just forked has no group of its own yet.
        self.popen.wait()

    def stop(self) -> None:
        """End the process as its operator would."""
        if self.popen.poll() is None:
            self.thaw()
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)  # children that outlived it
