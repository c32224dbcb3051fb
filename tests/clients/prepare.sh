#!/bin/sh
# Install the tools of other people's that tests/test_clients.py runs, into a folder of their own:
#
#     tests/clients/prepare.sh FOLDER
#     CELERY_STATS_TEST_CLIENTS=FOLDER python -m pytest tests/test_clients.py
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

# Apart from the package's own environment: their dependencies are no business of it.
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --requirement "$here/requirements.txt"

cp "$here/package.json" .
npm install --no-package-lock --no-audit --no-fund --loglevel=error
