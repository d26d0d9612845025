"""Logs a workflow of GitHub in to a Kubernetes cluster with its OIDC token, so without a key.

    SERVER=https://… CERTIFICATE_AUTHORITY="$(cat ca.pem)" AUDIENCE=… NAMESPACE=… \\
        python scripts/kubernetes_login.py kubeconfig > kubeconfig
    python scripts/kubernetes_login.py token AUDIENCE

A token lives for minutes, an upgrade may take longer: so the kubeconfig holds none, but names the
second command, which kubectl and Helm run whenever they need one. The job needs `id-token: write`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

API_VERSION = "client.authentication.k8s.io/v1"
TIMEOUT = 30.0  # seconds


def main() -> None:
    try:
        if sys.argv[1:] == ["kubeconfig"]:
            document = kubeconfig(os.environ)
        elif len(sys.argv) == 3 and sys.argv[1] == "token":
            document = credential(os.environ, sys.argv[2])
        else:
            sys.exit((__doc__ or "").strip())
    except KeyError as missing:
        name = missing.args[0]
        hint = ": does the job have `id-token: write`?" if name.startswith("ACTIONS_") else "."
        sys.exit(f"{name} is not set{hint}")
    except (OSError, ValueError) as problem:
        sys.exit(f"GitHub gives no token: {problem}")
    print(json.dumps(document))


def kubeconfig(environment: Mapping[str, str]) -> dict[str, object]:
    """For kubectl and Helm; JSON is YAML."""
    values = {
        name: environment.get(name, "").strip()
        for name in ("SERVER", "CERTIFICATE_AUTHORITY", "AUDIENCE", "NAMESPACE")
    }
    for name, value in values.items():
        if not value:
            raise KeyError(name)
    authority = base64.b64encode(f"{values['CERTIFICATE_AUTHORITY']}\n".encode()).decode()
    command = {
        "apiVersion": API_VERSION,
        "command": sys.executable,
        "args": [str(Path(__file__).resolve()), "token", values["AUDIENCE"]],
        "interactiveMode": "Never",
    }
    cluster = {"server": values["SERVER"], "certificate-authority-data": authority}
    context = {"cluster": "weir", "user": "workflow", "namespace": values["NAMESPACE"]}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "weir",
        "clusters": [{"name": "weir", "cluster": cluster}],
        "contexts": [{"name": "weir", "context": context}],
        "users": [{"name": "workflow", "user": {"exec": command}}],
    }


def credential(environment: Mapping[str, str], audience: str) -> dict[str, object]:
    """The token, and until when it holds, as kubectl and Helm want it."""
    url = environment["ACTIONS_ID_TOKEN_REQUEST_URL"]
    address = f"{url}&audience={urllib.parse.quote(audience, safe='')}"
    request = urllib.request.Request(address)  # noqa: S310
    bearer = environment["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
    request.add_header("Authorization", f"Bearer {bearer}")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        token = json.load(answer)["value"]
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    until = datetime.fromtimestamp(claims["exp"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"token": token, "expirationTimestamp": until}
    return {"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status}


if __name__ == "__main__":
    main()
