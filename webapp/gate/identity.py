"""From a credential to a Principal: who asks, of which tier."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from gevent.lock import BoundedSemaphore

from webapp.accounts.keys import ApiKey, KeyStore, digest
from webapp.allowance import Allowance
from webapp.errors import MalformedRequest, NotAllowed, NotAuthenticated, StoreUnavailable
from webapp.settings import DEMO_SECRETS

FRESH_FOR = 4.0  # a revoked key stops everywhere within 5 s
STALE_FOR = 600.0
REMEMBERED = 10_000
KEY_HEADERS = ("X-API-Key", "api-key")

NO_CREDENTIAL = "Send an API key: X-API-Key, api-key, or Authorization: Bearer."
BAD_KEY = "This API key is not valid."


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
    stale: bool = False

    @property
    def bucket(self) -> str:
        return f"key-{self.key_id}"


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
            raise MalformedRequest("Two different credentials were sent. Send one.")
        return Credential(keys.pop(), bearer=False)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated("Authorization must be: Bearer <API key>.")
    if keys - {token.strip()}:
        raise MalformedRequest("Two different credentials were sent. Send one.")
    return Credential(token.strip(), bearer=True)


class Identities:
    """Finds principals, from memory for FRESH_FOR seconds, then from the database."""

    def __init__(self, keys: KeyStore, tiers: Mapping[str, Allowance]) -> None:
        self._keys = keys
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
        key_digest = digest(credential.secret)
        principal = self._fresh(key_digest) or self._ask_once(key_digest)
        if principal is None:
            raise credential.rejected()
        return principal

    def _fresh(self, key_digest: str) -> Principal | None:
        found, principal = self._remembered.get(key_digest, (None, None))
        return principal if found and time.monotonic() - found < FRESH_FOR else None

    def _ask_once(self, key_digest: str) -> Principal | None:
        """Ask the database; of many requests at once with one key, one asks."""
        turn = self._asking.setdefault(key_digest, BoundedSemaphore())
        try:
            with turn:
                return self._fresh(key_digest) or self._ask(key_digest)
        finally:
            self._asking.pop(key_digest, None)

    def _ask(self, key_digest: str) -> Principal | None:
        asked = time.monotonic()
        try:
            key = self._keys.find(key_digest)
        except StoreUnavailable:
            found, principal = self._remembered.get(key_digest, (asked - STALE_FOR, None))
            if principal is None or asked - found >= STALE_FOR:
                raise
            return replace(principal, stale=True)
        if key is None or key.tier not in self._tiers:
            self._remembered.pop(key_digest, None)
            return None
        principal = self._principal(key)
        self._remembered[key_digest] = (asked, principal)
        self._remembered.move_to_end(key_digest)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    def _principal(self, key: ApiKey) -> Principal:
        allowance = self._tiers[key.tier].overridden(key.overrides)
        return Principal(key.id, key.name, key.mask, key.tier, allowance)


def _is_loopback(address: str | None) -> bool:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
