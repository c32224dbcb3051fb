# The demo project; docker-compose.yml starts it as a web server and as workers.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1
WORKDIR /srv

COPY pyproject.toml README.md LICENSE ./
COPY celery_stats celery_stats
RUN pip install --no-cache-dir '.[demo]' 'psycopg[binary]>=3.1'

COPY manage.py ./
COPY project project

RUN useradd --uid 10001 --home-dir /srv app
USER 10001

EXPOSE 8000
CMD ["gunicorn", "project.wsgi", "--config", "python:project.gunicorn", \
     "--bind", "0.0.0.0:8000", "--worker-tmp-dir", "/dev/shm"]
