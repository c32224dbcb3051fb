"""What a web server such as gunicorn calls."""

from __future__ import annotations

import os

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

if not os.environ.get("DJANGO_SECRET_KEY"):
    # With a key that settings.py made up, a session would end with the process that began it.
    raise ImproperlyConfigured("Set DJANGO_SECRET_KEY to a long random text.")

application = get_wsgi_application()
