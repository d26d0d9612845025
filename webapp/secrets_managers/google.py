"""Secrets in Google Cloud Secret Manager (`gcp-sm://project/name`), by Google's SDK.

Over REST: gRPC's threads would not get along with gevent.
"""

from __future__ import annotations

import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud.secretmanager_v1.services.secret_manager_service import (
    SecretManagerServiceClient,
)

from webapp.secrets_managers.reference import ManagerUnavailable, SecretError

TIMEOUT = 5.0
REASONS = {
    400: "cannot be read: is its version enabled?",
    403: "may not be read: grant this identity roles/secretmanager.secretAccessor on it",
    404: "was not found",
}


class Manager:
    def __init__(self) -> None:
        self._clients: dict[str, SecretManagerServiceClient] = {}

    def read(self, name: str) -> str:
        full, location = _resource(name)
        try:
            client = self._clients.get(location) or self._connect(location)
            answer = client.access_secret_version(name=full, retry=None, timeout=TIMEOUT)
        except GoogleAPICallError as error:
            raise _refusal(error) from None
        except DefaultCredentialsError:
            raise ManagerUnavailable(
                "cannot be read: no credentials of Google Cloud were found"
            ) from None
        except TransportError:
            raise ManagerUnavailable("cannot be reached (TransportError)") from None
        except GoogleAuthError as error:
            raise ManagerUnavailable(
                f"cannot be read: this identity got no token ({type(error).__name__})"
            ) from None
        except requests.RequestException as error:
            raise ManagerUnavailable(f"cannot be reached ({type(error).__name__})") from None
        return answer.payload.data.decode()

    def _connect(self, location: str) -> SecretManagerServiceClient:
        # A secret of one region is kept there alone.
        host = f"secretmanager.{location}.rep.googleapis.com"
        client = SecretManagerServiceClient(
            transport="rest", client_options={"api_endpoint": host} if location else None
        )
        self._clients[location] = client
        return client


def _resource(name: str) -> tuple[str, str]:
    """The full name of a secret's version, and the region that keeps it, if only one does."""
    if "/secrets/" not in name:
        project, secret, *version = name.split("/")
        name = f"projects/{project}/secrets/{secret}/versions/{version[0] if version else 'latest'}"
    if "/versions/" not in name:
        name += "/versions/latest"
    parts = name.split("/")
    return name, parts[3] if parts[2] == "locations" else ""


def _refusal(error: GoogleAPICallError) -> SecretError:
    status = int(error.code or 0)
    kind = type(error).__name__
    if status in REASONS:
        return SecretError(f"{REASONS[status]} ({kind})")
    if status == 429 or status >= 500:
        return ManagerUnavailable(f"cannot be reached ({kind})")
    return SecretError(f"cannot be read ({kind})")
