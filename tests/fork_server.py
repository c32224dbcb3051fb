"""Starts programs by forking: ``python -m tests.fork_server celery``, or ``django``.

Imports are most of what the start of a program costs. This process imports them once. Its standard
input is a socket. Each message is JSON with the arguments and the environment of a program, and
has four file descriptors: the program's standard input, output and error, and where its exit
status is written. The answer is its process id. This process ends with its input.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import signal
import socket
import sys
import termios
from contextlib import suppress
from select import select
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1

#: What each program imports, apart from the Celery app: that is made when its environment is set.
MODULES = {
    "celery": (
        *("celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.app.log"),
        *("celery.concurrency.prefork", "celery.concurrency.solo", "celery.concurrency.thread"),
        *("celery.worker.consumer", "celery.worker.control", "celery.worker.components"),
        *("celery.worker.strategy", "celery.worker.autoscale", "celery.events"),
        *("kombu.transport.redis", "kombu.transport.pyamqp", "kombu.transport.filesystem"),
        *("kombu.asynchronous", "kombu.pidbox"),
    ),
    "django": (
        *("django.core.management", "celery_stats.management.commands.celery_stats"),
        *("celery_stats.page.fleet", "celery.app.control", "celery.app.amqp", "celery.app.events"),
        *("kombu.transport.redis", "kombu.transport.pyamqp", "project.filesystem"),
    ),
}


def main(program: str) -> None:
    if program == "django":
        importlib.import_module("django").setup()
    for name in MODULES[program]:
        importlib.import_module(name)
    gc.freeze()  # A collection would copy to each fork what it only reads there.
    orders = socket.socket(fileno=0)
    #: Open file of a process, to its id and where to write its exit status.
    running: dict[int, tuple[int, int]] = {}
    while True:
        for fd in select([orders.fileno(), *running], [], [])[0]:
            if fd in running:
                report_end(fd, *running.pop(fd))
                continue
            order, fds, _, _ = socket.recv_fds(orders, 1 << 20, 4)
            if not order:
                return
            pid = os.fork()
            if pid == 0:
                orders.detach()
                become(program, fds, **json.loads(order))
            orders.send(str(pid).encode())
            running[os.pidfd_open(pid)] = pid, fds.pop()
            for fd in fds:
                os.close(fd)


def report_end(process: int, pid: int, status: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):  # Nobody asks for it any more.
        os.write(status, str(code).encode())
    os.close(process)
    os.close(status)


def become(program: str, fds: list[int], args: list[str], env: dict[str, str]) -> NoReturn:
    """Run a program in a session of its own."""
    os.setsid()
    # Linux: die with the server, and so with tests that are killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What was started in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    os.closerange(3, 1024)  # select() takes none above.
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C reaches it.
    os.environ.clear()
    os.environ.update(env)
    open_streams(unbuffered=bool(env.get("PYTHONUNBUFFERED")))
    sys.argv = [program, *args]
    entry: Any
    if program == "celery":
        entry = importlib.import_module("celery.bin.celery").main
    else:
        entry = importlib.import_module("django.core.management").execute_from_command_line
    try:
        try:
            sys.exit(entry())
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except SystemExit as exc:
        if isinstance(exc.code, int | None):
            # Taking down all modules first would cost more than most programs here.
            os._exit(exc.code or 0)
        raise


def open_streams(*, unbuffered: bool) -> None:
    """Open standard input, output and error as the interpreter does when it starts."""
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # type: ignore[arg-type]
        write_through=unbuffered,
        line_buffering=os.isatty(1),
    )
    error = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(error, errors="backslashreplace", line_buffering=True)


if __name__ == "__main__":
    main(sys.argv[1])
