"""From a credential to a Principal: who asks, of which tier."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address

from gevent.lock import BoundedSemaphore

from webapp.accounts.accounts import Account, AccountStore
from webapp.accounts.keys import ApiKey, KeyStore, digest, now
from webapp.accounts.tokens import Claims, Tokens
from webapp.allowance import Allowance
from webapp.errors import MalformedRequest, NotAllowed, NotAuthenticated, StoreUnavailable
from webapp.llm.calls import BilledLine, BillingContext
from webapp.setting_parsers import DEMO_SECRETS

FRESH_TTL = 4.0  # a revoked key stops everywhere within 5 s
STALE_TTL = 600.0
MAX_REMEMBERED = 10_000
KEY_HEADERS = ("X-API-Key", "api-key")

NO_CREDENTIAL = "API key required. Send it as X-API-Key, api-key or Authorization: Bearer."
BAD_KEY = "Invalid API key."


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: plain values, safe to keep while the database is away.

    `stale` means the database could not confirm the key just now; it is good for cached answers.
    """

    key_id: int
    name: str
    mask: str
    tier: str
    allowance: Allowance
    account: Account | None = None
    """Of a token: whose it is."""
    expires_at: float | None = None
    """Unix seconds of the end of the key, or of this secret of it."""
    stale: bool = False

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and time.time() >= self.expires_at

    @property
    def bucket(self) -> str:
        return f"key-{self.key_id}"

    def billing_of_line(self, request_id: str, endpoint: str, line: BilledLine) -> BillingContext:
        """Who pays for a line of a batch, to which limits per minute and day do not apply."""
        context = self.billing_context(request_id, endpoint)
        return replace(context, tokens_per_minute=None, batch=line)

    def billing_context(self, request_id: str = "", endpoint: str = "") -> BillingContext:
        """Who pays for what a request of this one leads to."""
        allowance = self.allowance
        return BillingContext(
            self.key_id,
            request_id,
            endpoint,
            allowance.usd_per_day,
            allowance.usd_per_month,
            allowance.tokens_per_minute,
        )


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request sent: the secret, and whether it came as `Authorization`."""

    secret: str
    bearer: bool

    def rejected(self) -> NotAuthenticated | NotAllowed:
        return NotAuthenticated(BAD_KEY) if self.bearer else NotAllowed(BAD_KEY)


def read_credential(headers: Mapping[str, str]) -> Credential:
    """The one credential of a request.

    Raises NotAllowed if there is none, NotAuthenticated if `Authorization` is no bearer token, and
    MalformedRequest if there are two different ones.
    """
    keys = {headers[name].strip() for name in KEY_HEADERS if name in headers} - {""}
    authorization = headers.get("Authorization", "").strip()
    if not authorization:
        if not keys:
            raise NotAllowed(NO_CREDENTIAL)
        if len(keys) > 1:
            raise MalformedRequest("Two different credentials were sent. Send only one.")
        return Credential(keys.pop(), bearer=False)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated("Authorization must be: Bearer <API key>.")
    if keys - {token.strip()}:
        raise MalformedRequest("Two different credentials were sent. Send only one.")
    return Credential(token.strip(), bearer=True)


class Identities:
    """Finds principals, from memory for FRESH_FOR seconds, then from the database."""

    def __init__(
        self,
        keys: KeyStore,
        accounts: AccountStore,
        tokens: Tokens,
        tiers: Mapping[str, Allowance],
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._tokens = tokens
        self._tiers = tiers
        self._remembered: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        self._asking: dict[str, BoundedSemaphore] = {}

    def identify(self, credential: Credential, address: str | None) -> Principal:
        """The principal of a credential.

        Raises NotAllowed or NotAuthenticated for a bad one, StoreUnavailable for one that cannot
        be looked up.
        """
        if credential.secret in DEMO_SECRETS and not _is_loopback(address):
            raise credential.rejected()
        if credential.bearer and credential.secret.count(".") == 2:
            return self._of_token(self._tokens.read(credential.secret))
        key_digest = digest(credential.secret)
        principal = self._remembered_or(key_digest, lambda: self._of_key(key_digest))
        if principal is None:
            raise credential.rejected()
        return principal

    def of_key_id(self, key_id: int) -> Principal | None:
        """The principal of a key that works now, for who may act as it without its secret."""
        return next(iter(self.of_key_ids([key_id])), None)

    def of_key_ids(self, key_ids: Collection[int]) -> list[Principal]:
        """The principals of those of the keys that work now."""
        found = (self._principal(key, key.expires_at) for key in self._keys.get_all(key_ids))
        return [principal for principal in found if principal]

    def _of_token(self, claims: Claims) -> Principal:
        name = f"account {claims.username}"
        _, known = self._remembered.get(name, (None, None))
        if known and known.account and known.account.generation < claims.generation:
            del self._remembered[name]  # what is known is older than the token
        principal = self._remembered_or(name, lambda: self._of_account(claims.username))
        if principal is None or principal.account is None:
            raise NotAuthenticated("This account no longer exists or is disabled.")
        if principal.account.generation != claims.generation:
            raise NotAuthenticated("This token has been revoked. Get a new one from POST /token.")
        return principal

    def _remembered_or(self, name: str, find: Callable[[], Principal | None]) -> Principal | None:
        return self._fresh(name) or self._ask_once(name, find)

    def _fresh(self, name: str) -> Principal | None:
        found, principal = self._remembered.get(name, (None, None))
        if found is None or principal is None or time.monotonic() - found >= FRESH_TTL:
            return None
        return None if principal.has_expired else principal

    def _ask_once(self, name: str, find: Callable[[], Principal | None]) -> Principal | None:
        """Ask the database; of many requests at once with one credential, one asks."""
        turn = self._asking.setdefault(name, BoundedSemaphore())
        try:
            with turn:
                return self._fresh(name) or self._ask(name, find)
        finally:
            self._asking.pop(name, None)

    def _ask(self, name: str, find: Callable[[], Principal | None]) -> Principal | None:
        asked = time.monotonic()
        try:
            principal = find()
        except StoreUnavailable:
            found, principal = self._remembered.get(name, (asked - STALE_TTL, None))
            if principal is None or principal.has_expired or asked - found >= STALE_TTL:
                raise
            return replace(principal, stale=True)
        if principal is None:
            self._remembered.pop(name, None)
            return None
        self._remembered[name] = (asked, principal)
        self._remembered.move_to_end(name)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    def _of_key(self, key_digest: str) -> Principal | None:
        found = self._keys.find(key_digest)
        return self._principal(*found) if found else None

    def _of_account(self, username: str) -> Principal | None:
        account = self._accounts.find(username)
        if account is None or account.disabled_at is not None:
            return None
        principal = self._principal(account.key, account.key.expires_at)
        return replace(principal, account=account) if principal else None

    def _principal(self, key: ApiKey, expires_at: datetime | None) -> Principal | None:
        """None where its tier is none any more."""
        if key.tier not in self._tiers:
            return None
        allowance = self._tiers[key.tier].overridden(key.overrides)
        if key.increase_nano and key.increase_until and key.increase_until > now():
            allowance = allowance.increased(key.increase_nano)
        until = expires_at.timestamp() if expires_at else None
        return Principal(key.id, key.name, key.mask, key.tier, allowance, expires_at=until)


def _is_loopback(address: str | None) -> bool:
    return address is not None and ip_address(address).is_loopback
