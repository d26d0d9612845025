"""Tokens of accounts: JWTs (RFC 7519). Only the account's name and generation are trusted."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

import jwt

from webapp.accounts.accounts import Account
from webapp.errors import NotAuthenticated

ALGORITHM = "HS256"
TOKEN_TTL = 30 * 60  # seconds


@dataclass(frozen=True, slots=True)
class Claims:
    """The account of a token, and the generation of that account's tokens."""

    username: str
    generation: int


class Tokens:
    """Issues and reads tokens, signed with a key derived from SECRET_KEY."""

    def __init__(self, secret_key: str) -> None:
        # Not the key that signs sessions: a token cannot be used as a session, nor the reverse.
        self._key = hmac.digest(secret_key.encode(), b"weir jwt", hashlib.sha256)

    def issue(self, account: Account) -> str:
        issued = int(time.time())
        claims = {
            "sub": account.username,
            "tier": account.key.tier,
            "iat": issued,
            "exp": issued + TOKEN_TTL,
            "jti": f"{account.generation}-{secrets.token_urlsafe(12)}",
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def read(self, token: str) -> Claims:
        """Raises NotAuthenticated if the token is invalid or has expired."""
        required = {"require": ["sub", "exp", "iat", "jti"]}
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM], options=required)  # type: ignore[arg-type]
            return Claims(str(claims["sub"]), int(str(claims["jti"]).partition("-")[0]))
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated(
                "This token has expired. Get a new one from POST /token."
            ) from None
        except (jwt.InvalidTokenError, ValueError):
            raise NotAuthenticated("Invalid token.") from None
