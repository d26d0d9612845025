"""What /v1/batches takes and gives, as OpenAI's Batch API."""

from __future__ import annotations

import marshmallow
from marshmallow import EXCLUDE, Schema, fields, validate

from webapp.api.blueprint import StrictInteger
from webapp.batches.tables import BatchState, Mode
from webapp.batches.validation import is_storable


def _check_storable(text: str) -> None:
    """Raise marshmallow's ValidationError for what no database or page can hold."""
    if not is_storable(text):
        raise marshmallow.ValidationError("Not valid Unicode, or has a NUL.")


class ExpiresAfter(Schema):
    anchor = fields.String(required=True, validate=validate.Equal("created_at"))
    seconds = StrictInteger(required=True, validate=validate.Range(3_600, 2_592_000))


class BatchCreationBody(Schema):
    input_file_id = fields.String(required=True, validate=validate.Length(1, 64))
    endpoint = fields.String(required=True)
    completion_window = fields.String(required=True)
    metadata = fields.Dict(
        keys=fields.String(validate=[validate.Length(1, 64), _check_storable]),
        values=fields.String(validate=[validate.Length(0, 512), _check_storable]),
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=16),
    )
    output_expires_after = fields.Nested(ExpiresAfter, allow_none=True, load_default=None)


class LineError(Schema):
    code = fields.String()
    message = fields.String()
    param = fields.String(allow_none=True)
    line = fields.Integer(allow_none=True)


class LineErrors(Schema):
    object = fields.String()
    data = fields.List(fields.Nested(LineError))


class RequestCounts(Schema):
    total = fields.Integer()
    completed = fields.Integer()
    failed = fields.Integer()


class StoppedBy(Schema):
    code = fields.String()
    message = fields.String()


class OwnFields(Schema):
    mode = fields.String(validate=validate.OneOf(tuple(Mode)))
    mode_reason = fields.String(allow_none=True)
    cost_cap_usd = fields.Float(allow_none=True)
    stopped_by = fields.Nested(StoppedBy, allow_none=True)


class BatchObject(Schema):
    id = fields.String()
    object = fields.String()
    endpoint = fields.String()
    errors = fields.Nested(LineErrors, allow_none=True)
    input_file_id = fields.String()
    completion_window = fields.String()
    status = fields.String(validate=validate.OneOf(tuple(BatchState)))
    output_file_id = fields.String(allow_none=True)
    error_file_id = fields.String(allow_none=True)
    created_at = fields.Integer()
    expires_at = fields.Integer()
    in_progress_at = fields.Integer(allow_none=True)
    finalizing_at = fields.Integer(allow_none=True)
    completed_at = fields.Integer(allow_none=True)
    failed_at = fields.Integer(allow_none=True)
    expired_at = fields.Integer(allow_none=True)
    cancelling_at = fields.Integer(allow_none=True)
    cancelled_at = fields.Integer(allow_none=True)
    request_counts = fields.Nested(RequestCounts)
    metadata = fields.Dict(keys=fields.String(), values=fields.String(), allow_none=True)
    weir = fields.Nested(OwnFields)


class BatchList(Schema):
    object = fields.String()
    data = fields.List(fields.Nested(BatchObject))
    first_id = fields.String(allow_none=True)
    last_id = fields.String(allow_none=True)
    has_more = fields.Boolean()


class PageQuery(Schema):
    class Meta:
        unknown = EXCLUDE

    after = fields.String(load_default=None)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
