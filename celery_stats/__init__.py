"""A snapshot of every Celery worker behind one REST endpoint."""

__version__ = "0.1.0"
