"""Asking the workers. Knows Celery and kombu, and nothing of Django or HTTP."""
