"""Prints the signature that PyPI's standardwebhooks makes. The arguments are a secret, an id, a time in seconds and a body."""

import sys
from datetime import datetime, timezone

from standardwebhooks import Webhook

secret, id, unix_s, body = sys.argv[1:]
print(Webhook(secret).sign(id, datetime.fromtimestamp(int(unix_s), timezone.utc), body))
