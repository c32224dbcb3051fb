"""gunicorn's settings: ``gunicorn --config python:project.gunicorn project.wsgi``."""

from __future__ import annotations

worker_class = "gthread"
threads = 8
# It would lie in the home directory. Older versions have none and ignore this line.
control_socket_disable = True
