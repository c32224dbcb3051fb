"""The demo project's settings, from the environment; each has a default that works."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent

env = os.environ.get

# Commands and Celery workers need no lasting key. A web server does: wsgi.py insists on one.
SECRET_KEY = env("DJANGO_SECRET_KEY") or get_random_secret_key()
DEBUG = env("DJANGO_DEBUG", "0") == "1"
ALLOWED_HOSTS = env("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "celery_stats",
    "project",
    "project.accounts",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# postgres://user:password@host/name, instead of a file.
database_url = urlsplit(env("DJANGO_DATABASE_URL", ""))
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": env("DJANGO_DATABASE", str(BASE_DIR / "db.sqlite3")),
        # Opening a connection takes longer than what a request has to ask.
        "CONN_MAX_AGE": None,
    },
}
if database_url.scheme == "postgres":
    DATABASES["default"] |= {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database_url.path.strip("/"),
        "USER": database_url.username,
        "PASSWORD": database_url.password,
        "HOST": database_url.hostname,
        "PORT": database_url.port,
        "CONN_HEALTH_CHECKS": True,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"

TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
# Static files are served from the apps that bring them; nothing has to be collected.
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Demo project",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    # Swagger's files from this server, so that its page also works without the internet.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

CELERY_BROKER_URL = env("CELERY_BROKER_URL") or "redis://localhost:6379/0"
CELERY_BROKER_TRANSPORT = env("CELERY_BROKER_TRANSPORT")
CELERY_BROKER_TRANSPORT_OPTIONS = json.loads(env("CELERY_BROKER_TRANSPORT_OPTIONS", "{}"))
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Workers that share a broker but not these two names do not see each other.
CELERY_CONTROL_EXCHANGE = env("CELERY_CONTROL_EXCHANGE", "celery")
CELERY_EVENT_EXCHANGE = env("CELERY_EVENT_EXCHANGE", "celeryev")
# None: one queue with the name "celery".
CELERY_TASK_QUEUES = json.loads(env("CELERY_TASK_QUEUES", "null"))
CELERY_WORKER_POOL_PUTLOCKS = json.loads(env("CELERY_WORKER_POOL_PUTLOCKS", "true"))
CELERY_RESULT_BACKEND = env("CELERY_RESULT_BACKEND")
