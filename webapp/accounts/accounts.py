"""User accounts: name, password, role, and the generation of their tokens.

Each account has its own key, which has no secret. All tokens of the account act as that key and
share its tier, limits and budget.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import gevent
from sqlalchemy import Connection, func, or_, select
from sqlalchemy.exc import IntegrityError

from webapp.accounts import audit, passwords
from webapp.accounts.account_table import accounts
from webapp.accounts.audit import Actor
from webapp.accounts.ended_sessions import has_ended
from webapp.accounts.keys import LARGEST_ID, ApiKey, api_keys, key_of, key_row, now, zoned
from webapp.allowance import parse_overrides, shown
from webapp.errors import Conflict, NotFound, StoreUnavailable, ValidationError
from webapp.storage.database import Database

ADMIN, MEMBER = "admin", "member"
ROLES = (ADMIN, MEMBER)
USERNAME = re.compile(r"[a-z0-9._@-]{1,100}")
SIGN_IN_RESOLUTION = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Account:
    """An account and the key it acts as."""

    id: int
    username: str
    role: str
    generation: int
    created_at: datetime
    disabled_at: datetime | None
    last_sign_in_at: datetime | None
    key: ApiKey

    def to_dict(self) -> dict[str, Any]:
        """The account for clients and the audit log: JSON-ready, without secrets."""
        return {
            "id": self.id,
            "username": self.username,
            "role": self.role,
            "tier": self.key.tier,
            "limits": shown(self.key.overrides),
            "disabled": self.disabled_at is not None,
            "created_at": self.created_at.isoformat(),
        }


class AccountStore:
    """Accounts in the database. Every method may raise StoreUnavailable.

    Changes may raise NotFound, Conflict or ValidationError. Each is audited under `actor`.
    """

    def __init__(self, database: Database, tiers: Mapping[str, object]) -> None:
        self._database = database
        self._tiers = tiers

    def find(self, username: str, session_id: str | None = None) -> Account | None:
        """The account; None also where the session with this id was signed out."""
        if not USERNAME.fullmatch(username.lower()):
            return None
        where = accounts.c.username == username.lower()
        if session_id is not None:
            where &= ~has_ended(session_id)
        return self._database.read(lambda connection: _one(connection, where))

    def get(self, account_id: int) -> Account:
        """Raises NotFound."""
        return self._database.read(lambda connection: _existing(connection, account_id))

    def all(self) -> list[Account]:
        query = _query().order_by(accounts.c.username)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_account(row) for row in rows]

    def search(self, part: str = "", *, after: str = "", count: int) -> list[Account]:
        """Accounts with this part in their username, by username, from the first after `after`."""
        name = accounts.c.username
        query = _query().where(name.contains(part.lower(), autoescape=True), name > after)
        query = query.order_by(name).limit(count)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_account(row) for row in rows]

    def owned_keys(self, account_ids: Collection[int]) -> dict[int, list[int]]:
        """The ids of the keys that each account owns, revoked ones too."""
        query = select(api_keys.c.owner_id, api_keys.c.id)
        query = query.where(api_keys.c.owner_id.in_(account_ids))
        rows = self._database.read(lambda connection: connection.execute(query).all())
        owned: defaultdict[int, list[int]] = defaultdict(list)
        for owner_id, key_id in rows:
            owned[owner_id].append(key_id)
        return owned

    def note_sign_in(self, account: Account) -> None:
        """Store that the account signs in now, at most once a minute.

        In the background, so that no sign-in waits for a database that is slow to write.
        """
        at, before = now(), account.last_sign_in_at
        if before is None or at - before >= SIGN_IN_RESOLUTION:
            gevent.spawn(self._store_sign_in, account.id, at)

    def authenticate(self, username: str, password: str) -> Account | None:
        """The account if it is enabled and the password is right.

        It takes as long for a wrong name as for a wrong password.
        """
        name = username.lower()
        query = select(accounts.c.password_hash).where(accounts.c.username == name)
        stored_hash = None
        if USERNAME.fullmatch(name):
            stored_hash = self._database.read(lambda connection: connection.execute(query).scalar())
        if not passwords.verify(stored_hash, password):
            return None
        account = self.find(name)
        return account if account and account.disabled_at is None else None

    def create(
        self, actor: Actor, username: str, password: str, *, role: str = MEMBER, tier: str = "free"
    ) -> Account:
        name = username.lower()
        if not USERNAME.fullmatch(name):
            raise _invalid("username", "Must be 1 to 100 letters, digits or any of . _ @ -")
        self._check(role=role, tier=tier)
        password_hash = _hashed(password)

        def work(connection: Connection) -> Account:
            row = key_row(name, tier, name[:16], "account")
            key_id = connection.execute(api_keys.insert().values(row)).inserted_primary_key[0]  # type: ignore[index]
            account = {
                "username": name,
                "password_hash": password_hash,
                "role": role,
                "key_id": key_id,
                "generation": 1,
                "created_at": now(),
            }
            connection.execute(accounts.insert().values(account))
            created = _one(connection, accounts.c.key_id == key_id)
            assert created
            after = created.to_dict()
            audit.record(connection, actor, "account.create", _target(created), None, after)
            return created

        try:
            return self._database.write(work)
        except IntegrityError:
            raise Conflict(f"Account {name!r} already exists.") from None

    def change(self, actor: Actor, account_id: int, changes: Mapping[str, Any]) -> Account:
        """Change `role`, `tier`, `disabled` (bool) or `limits` (see webapp.allowance)."""
        self._check(**{name: changes[name] for name in ("role", "tier") if name in changes})

        def work(connection: Connection) -> Account:
            before = _existing(connection, account_id, lock=True)
            account_values: dict[str, Any] = {}
            if "role" in changes:
                account_values["role"] = changes["role"]
            if "disabled" in changes:
                account_values["disabled_at"] = now() if changes["disabled"] else None
                account_values["generation"] = before.generation + 1
            if account_values:
                update = accounts.update().where(_is(account_id))
                connection.execute(update.values(account_values))
            key_values: dict[str, Any] = {}
            if "tier" in changes:
                key_values["tier"] = changes["tier"]
            if "limits" in changes:
                overrides = before.key.overrides | _limits(changes["limits"])
                key_values["overrides"] = json.dumps(overrides)
            if key_values:
                update = api_keys.update().where(api_keys.c.id == before.key.id)
                connection.execute(update.values(key_values))
            if not _count_admins(connection):
                raise Conflict("The last administrator cannot be removed or disabled.")
            after = _existing(connection, account_id)
            audit.record(
                connection,
                actor,
                "account.change",
                _target(before),
                before.to_dict(),
                after.to_dict(),
            )
            return after

        return self._database.write(work)

    def set_password(self, actor: Actor, account_id: int, password: str) -> None:
        """Replace the password and end all tokens."""
        self._end_tokens(actor, account_id, "account.password", password_hash=_hashed(password))

    def sign_out(self, actor: Actor, account_id: int) -> None:
        """End all tokens of the account."""
        self._end_tokens(actor, account_id, "account.sign_out")

    def ensure_admin(self, username: str, password: str) -> bool:
        """Create the first administrator. False if an account of this name exists."""
        if self.find(username):
            return False
        try:
            tier = list(self._tiers)[-1]
            self.create(Actor("settings"), username, password, role=ADMIN, tier=tier)
        except Conflict:
            return False  # another process created it first
        return True

    def _store_sign_in(self, account_id: int, at: datetime) -> None:
        column = accounts.c.last_sign_in_at
        update = accounts.update().where(_is(account_id), or_(column.is_(None), column < at))
        # The next sign-in stores it.
        with suppress(StoreUnavailable):
            self._database.write(
                lambda connection: connection.execute(update.values(last_sign_in_at=at))
            )

    def _end_tokens(self, actor: Actor, account_id: int, action: str, **values: Any) -> None:
        def work(connection: Connection) -> None:
            account = _existing(connection, account_id, lock=True)
            values["generation"] = account.generation + 1
            connection.execute(accounts.update().where(_is(account_id)).values(values))
            audit.record(connection, actor, action, _target(account), None, None)

        self._database.write(work)

    def _check(self, *, role: str = MEMBER, tier: str | None = None) -> None:
        if role not in ROLES:
            raise _invalid("role", f"Must be one of {', '.join(ROLES)}.")
        if tier is not None and tier not in self._tiers:
            raise _invalid("tier", f"Must be one of {', '.join(self._tiers)}, not {tier!r}.")


def _hashed(password: str) -> str:
    if not passwords.MIN_LENGTH <= len(password) <= passwords.MAX_LENGTH:
        lengths = f"{passwords.MIN_LENGTH} to {passwords.MAX_LENGTH}"
        raise _invalid("password", f"Must have {lengths} characters.")
    return passwords.hashed(password)


def _limits(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return parse_overrides(values)
    except ValueError as error:
        raise _invalid("limits", str(error)) from None


def _invalid(field: str, message: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {field}.", details={field: [message]})


def _target(account: Account) -> str:
    return f"account-{account.id}"


def _is(account_id: int) -> Any:
    return accounts.c.id == account_id


def _count_admins(connection: Connection) -> int:
    enabled = (accounts.c.role == ADMIN, accounts.c.disabled_at.is_(None))
    return int(connection.execute(select(func.count()).where(*enabled)).scalar_one())


def _query() -> Any:
    columns = [accounts.c[name].label(f"account_{name}") for name in _COLUMNS]
    return select(*columns, *(api_keys.c[name] for name in ApiKey.__slots__)).join(
        api_keys, api_keys.c.id == accounts.c.key_id
    )


_COLUMNS = ("id", "username", "role", "generation", "created_at", "disabled_at", "last_sign_in_at")


def _one(connection: Connection, where: Any) -> Account | None:
    row = connection.execute(_query().where(where)).first()
    return _account(row) if row else None


def _existing(connection: Connection, account_id: int, *, lock: bool = False) -> Account:
    if lock and account_id <= LARGEST_ID:
        # Lock all admins: if two disable each other at once, one of them has to fail.
        connection.execute(
            select(accounts.c.id).where((accounts.c.role == ADMIN) | _is(account_id))
            .order_by(accounts.c.id).with_for_update()
        )  # fmt: skip
    account = _one(connection, _is(account_id)) if account_id <= LARGEST_ID else None
    if account is None:
        raise NotFound(f"Account {account_id} not found.")
    return account


def _account(row: Any) -> Account:
    fields = {name: zoned(getattr(row, f"account_{name}")) for name in _COLUMNS}
    return Account(**fields, key=key_of({n: getattr(row, n) for n in ApiKey.__slots__}))
