"""Reads secrets for Gunicorn's master: references on stdin, values or problems on stdout."""

from __future__ import annotations

import json
import sys

from webapp.secrets_managers import Reference, SecretError, read_at_start

references = [Reference(*parts) for parts in json.load(sys.stdin)]
found = read_at_start(references)
answers = [
    [None, str(value)] if isinstance(value, SecretError) else [value, ""]
    for value in (found[reference] for reference in references)
]
json.dump(answers, sys.stdout)
