# The demo project; docker-compose.yml starts it as a web server and as workers.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1
WORKDIR /srv

COPY pyproject.toml README.md LICENSE ./
COPY celery_stats celery_stats
RUN pip install --no-cache-dir '.[demo]'

COPY manage.py ./
COPY project project

# The database's folder is all that the user may write to.
RUN useradd --uid 10001 --home-dir /srv app && install --directory --owner app data
ENV DJANGO_DATABASE=/srv/data/db.sqlite3
USER 10001

EXPOSE 8000
CMD ["gunicorn", "project.wsgi", "--config", "python:project.gunicorn", \
     "--bind", "0.0.0.0:8000", "--worker-tmp-dir", "/dev/shm"]
