"""Starts Celery workers by forking: ``python -m tests.worker_server``.

Importing Celery is most of what the start of a worker costs. This process imports it once; each
line of its standard input is JSON with the arguments, log and environment of a worker, which is
a fork of it. Its standard output tells the process id. It ends with its input.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1

#: What a worker imports, apart from the app: that is made when its environment is set.
MODULES = (
    *("celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.app.log"),
    *("celery.concurrency.prefork", "celery.concurrency.solo", "celery.concurrency.thread"),
    *("celery.worker.consumer", "celery.worker.control", "celery.worker.components"),
    *("celery.worker.strategy", "celery.worker.autoscale", "celery.events"),
    *("kombu.transport.redis", "kombu.transport.pyamqp", "kombu.transport.filesystem"),
    *("kombu.asynchronous", "kombu.pidbox"),
)


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    # Nobody asks for their statuses: who started them watches the processes themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # By hand: the children must inherit no buffer.
    buffered = b""
    while data := os.read(0, 65536):
        *lines, buffered = (buffered + data).split(b"\n")
        for line in lines:
            if os.fork() == 0:
                become_worker(**json.loads(line))


def become_worker(args: list[str], log: str, env: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    # Linux: die with the server, and so with tests that are killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.write(1, f"{os.getpid()}\n".encode())
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, fd in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(fd, number)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = args
    command: Any = importlib.import_module("celery.bin.celery").main
    status = 1
    try:
        sys.exit(command())
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
