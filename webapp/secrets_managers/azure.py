"""Secrets in Azure Key Vault (`azure-kv://vault/name`), by Azure's SDK and its configuration."""

from __future__ import annotations

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from webapp.secrets_managers.reference import ManagerUnavailable, SecretError

TIMEOUTS = {"connection_timeout": 3, "read_timeout": 5, "retry_total": 1}
# Of people at their own machines: the Azure CLI is enough.
EXCLUDED = {
    f"exclude_{name}_credential": True
    for name in (
        "shared_token_cache",
        "visual_studio_code",
        "powershell",
        "developer_cli",
        "broker",
    )
}
REASONS = {
    403: "may not be read: give this identity the role Key Vault Secrets User on the vault, let "
    "the vault's firewall admit it, and enable the secret",
    404: "was not found",
}


class Manager:
    def __init__(self) -> None:
        self._credential: DefaultAzureCredential | None = None
        self._clients: dict[str, SecretClient] = {}

    def read(self, name: str) -> str:
        vault, secret, *version = name.split("/")
        try:
            client = self._clients.get(vault) or self._connect(vault)
            value = client.get_secret(secret, *version).value
        except (ServiceRequestError, ServiceResponseError) as error:
            raise ManagerUnavailable(f"cannot be reached ({type(error).__name__})") from None
        except ClientAuthenticationError:
            raise ManagerUnavailable("cannot be read: no identity of Azure got a token") from None
        except HttpResponseError as error:
            raise _refusal(error) from None
        except (AzureError, ValueError) as error:
            raise SecretError(f"cannot be read ({type(error).__name__})") from None
        return value or ""

    def _connect(self, vault: str) -> SecretClient:
        if self._credential is None:
            self._credential = DefaultAzureCredential(**EXCLUDED, **TIMEOUTS)
        # A whole host is for other clouds than the public one.
        host = vault if "." in vault else f"{vault}.vault.azure.net"
        client = SecretClient(f"https://{host}", self._credential, **TIMEOUTS)
        self._clients[vault] = client
        return client


def _refusal(error: HttpResponseError) -> SecretError:
    status = error.status_code or 0
    if status in REASONS:
        return SecretError(f"{REASONS[status]} ({status})")
    if status == 429 or status >= 500:
        return ManagerUnavailable(f"cannot be reached ({status})")
    return SecretError(f"cannot be read ({status})")
