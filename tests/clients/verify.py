"""Verifies a webhook with PyPI's standardwebhooks. The arguments are a secret, the headers as JSON, and the body."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

secret, headers, body = sys.argv[1:]
try:
    Webhook(secret).verify(body, json.loads(headers))
    print("verified")
except WebhookVerificationError:
    print("refused")
