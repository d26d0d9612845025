"""Request and response schemas of /admin. Amounts are in USD."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from webapp.accounts.accounts import ROLES
from webapp.accounts.key_changes import DEFAULT_GRACE, MAX_GRACE
from webapp.accounts.key_listing import ORIGINS, STATES
from webapp.accounts.keys import LARGEST_ID
from webapp.allowance import OVERRIDES
from webapp.api.blueprint import StrictBoolean, StrictInteger
from webapp.metering.usage import DIMENSIONS

PASSWORD = validate.Length(8, 256)
ID = validate.Range(0, LARGEST_ID)
# PostgreSQL cannot store NUL.
NO_NUL = validate.Regexp(r"^[^\x00]*\Z", error="Must not contain NUL.")


class Limits(fields.Dict):
    """Overrides of the tier's limits, by the names in webapp.allowance; null removes one."""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"description": f"Any of {', '.join(OVERRIDES)}; null removes one."}
        super().__init__(keys=fields.String(), metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given: dict[str, Any] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        problems = {}
        for name, limit in given.items():
            if name not in OVERRIDES:
                problems[name] = ["Unknown field."]
            elif limit is not None:
                try:
                    OVERRIDES[name](limit)
                except ValueError as error:
                    problems[name] = [f"{error}"]
        if problems:
            raise ValidationError(problems)
        return given


class NewAccountBody(Schema):
    username = fields.String(required=True, validate=validate.Length(1, 100))
    password = fields.String(required=True, validate=PASSWORD)
    role = fields.String(load_default="member", validate=validate.OneOf(ROLES))
    tier = fields.String(load_default="free")


class AccountChangesBody(Schema):
    role = fields.String(validate=validate.OneOf(ROLES))
    tier = fields.String()
    disabled = StrictBoolean()
    limits = Limits()


class PasswordBody(Schema):
    password = fields.String(required=True, validate=PASSWORD)


class AccountAnswer(Schema):
    id = fields.Integer()
    username = fields.String()
    role = fields.String()
    tier = fields.String()
    limits = fields.Dict()
    disabled = fields.Boolean()
    created_at = fields.String()


class AccountList(Schema):
    accounts = fields.List(fields.Nested(AccountAnswer))


class AuditQuery(Schema):
    target = fields.String(
        load_default=None,
        validate=NO_NUL,
        metadata={"description": "Such as `key-12` or `account-3`."},
    )
    before = fields.Integer(
        load_default=None,
        validate=ID,
        metadata={"description": "Only events older than the one with this id."},
    )
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))


class AuditEvent(Schema):
    id = fields.Integer()
    at = fields.String()
    actor = fields.String()
    address = fields.String(allow_none=True)
    action = fields.String()
    target = fields.String()
    before = fields.Dict(allow_none=True)
    after = fields.Dict(allow_none=True)


class AuditAnswer(Schema):
    events = fields.List(fields.Nested(AuditEvent))


class NewKeyBody(Schema):
    name = fields.String(required=True, validate=validate.Length(1, 100))
    tier = fields.String(load_default="free")
    owner = fields.String(load_default=None, allow_none=True)
    limits = Limits(load_default=dict)
    expires_at = fields.AwareDateTime(load_default=None, allow_none=True, default_timezone=UTC)


class KeyChangesBody(Schema):
    name = fields.String(validate=validate.Length(1, 100))
    tier = fields.String()
    owner = fields.String(allow_none=True)
    limits = Limits()
    expires_at = fields.AwareDateTime(allow_none=True, default_timezone=UTC)


class RotateBody(Schema):
    grace = StrictInteger(load_default=DEFAULT_GRACE, validate=validate.Range(0, MAX_GRACE))


class IncreaseBody(Schema):
    usd = fields.Raw(required=True, metadata={"type": "number"})
    until = fields.AwareDateTime(
        load_default=None, allow_none=True, default_timezone=UTC,
        metadata={"description": "Required unless `usd` is 0."},
    )  # fmt: skip


class KeyQuery(Schema):
    owner = fields.String(load_default=None, metadata={"description": "A username."})
    origin = fields.String(
        load_default=None, validate=validate.OneOf(ORIGINS),
        metadata={"description": " or ".join(f"`{origin}`" for origin in ORIGINS)},
    )  # fmt: skip
    state = fields.String(
        load_default=None, validate=validate.OneOf(STATES),
        metadata={"description": " or ".join(f"`{state}`" for state in STATES)},
    )  # fmt: skip
    after = fields.Integer(
        load_default=0, validate=validate.Range(0, LARGEST_ID),
        metadata={"description": "Only keys with a higher id, for the next page."},
    )  # fmt: skip
    limit = fields.Integer(load_default=1000, validate=validate.Range(1, 1000))


class KeyAnswer(Schema):
    id = fields.Integer()
    name = fields.String()
    key = fields.String(metadata={"description": "The newest secret, masked."})
    tier = fields.String()
    origin = fields.String(validate=validate.OneOf(ORIGINS))
    state = fields.String(validate=validate.OneOf(STATES))
    owner = fields.String(allow_none=True)
    limits = fields.Dict()
    created_at = fields.String()
    expires_at = fields.String(allow_none=True)
    revoked_at = fields.String(allow_none=True)
    budget_increase = fields.Dict()
    secrets = fields.List(fields.Dict())


class NewKeyAnswer(KeyAnswer):
    secret = fields.String()


class KeyList(Schema):
    keys = fields.List(fields.Nested(KeyAnswer))


class UsageQuery(Schema):
    since = fields.Date(load_default=None, metadata={"description": "Default: 29 days before."})
    until = fields.Date(load_default=None, metadata={"description": "Default: today (UTC)."})
    by = fields.String(load_default="day", metadata={"description": ",".join(DIMENSIONS)})
    key = fields.Integer(
        load_default=None, validate=ID, metadata={"description": "The id of a key."}
    )
    provider = fields.String(load_default=None, validate=NO_NUL)
    model = fields.String(load_default=None, validate=NO_NUL)
    endpoint = fields.String(load_default=None, validate=NO_NUL)
    format = fields.String(load_default=None, validate=validate.OneOf(["json", "csv"]))


class UsageAnswer(Schema):
    since = fields.String()
    until = fields.String()
    rows = fields.List(fields.Dict())
    total = fields.Dict()


class LedgerQuery(Schema):
    request_id = fields.String(load_default=None, validate=NO_NUL)
    key = fields.Integer(
        load_default=None, validate=ID, metadata={"description": "The id of a key."}
    )
    before = fields.Float(
        load_default=None,
        metadata={"description": "Unix seconds: only calls reserved before this time."},
    )
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))
    format = fields.String(load_default=None, validate=validate.OneOf(["json", "csv"]))


class LedgerAnswer(Schema):
    calls = fields.List(fields.Dict())
