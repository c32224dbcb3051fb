"""Reads the endpoint with Waldur's published client, and prints what it read as JSON.

python waldur.py BASE_URL TOKEN
"""

import json
import sys

from waldur_api_client import AuthenticatedClient
from waldur_api_client.api.celery_stats import celery_stats_retrieve

base_url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=base_url, token=token, prefix="Token")
snapshot = celery_stats_retrieve.sync(client=client)
json.dump(snapshot.to_dict(), sys.stdout)
