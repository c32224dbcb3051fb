"""gunicorn's settings: ``gunicorn --config python:project.gunicorn project.wsgi``."""

from __future__ import annotations

import gc
from typing import Any

worker_class = "gthread"
threads = 8
# A hundred task ids make a request line longer than the default of 4094 bytes.
limit_request_line = 8190
# It would lie in the home directory. Older versions have none and ignore this line.
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Let no garbage pile up.

    Django's requests refer to themselves and have to wait for the collector, which by default
    comes round after some 600. It may come often: what has been loaded is exempt from now on.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 2)
