"""The first administrator, made at the first start; in development with a generated password."""

from __future__ import annotations

import logging
import secrets

from webapp.accounts.accounts import AccountStore

log = logging.getLogger(__name__)


class FirstAdministrator:
    """`password` is the generated one, which is known only to the process that made the account;
    None where the settings have one, or an earlier start made it."""

    def __init__(self, accounts: AccountStore, username: str, configured_password: str) -> None:
        self.username = username
        self.password: str | None = None
        self._accounts = accounts
        self._configured_password = configured_password

    def ensure(self) -> None:
        """Make the account unless there is an administrator. Raises StoreUnavailable."""
        password = self._configured_password or secrets.token_urlsafe(12)
        if not self._accounts.ensure_admin(self.username, password):
            return
        if not self._configured_password:
            self.password = password
        log.info("Created the first administrator %s", self.username)
