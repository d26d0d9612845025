"""The form that starts a batch: what it shows, and what is done with what it sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, g, request

from webapp import money
from webapp.accounts.key_listing import WORKS
from webapp.accounts.keys import LARGEST_ID
from webapp.admission.bodies import count_body
from webapp.admission.limits import consume
from webapp.api import files
from webapp.api.multipart import FileForm
from webapp.batches.batch import Batch
from webapp.batches.retry import PURPOSE
from webapp.batches.tables import Mode
from webapp.dashboard.formatting import sentence
from webapp.dashboard.pages import number_of, page
from webapp.dashboard.session import actor, user
from webapp.dashboard.visibility import visible_ids, visible_keys
from webapp.errors import AddressNotAllowed, ValidationError, WeirError
from webapp.observability import request_context
from webapp.services import services

ENDPOINT = "/dashboard/batches/new"
FIELDS = {"csrf_token", "key", "endpoint", "cap", "mode", "on_lost"}
WINDOW, WINDOW_SECONDS = "24h", 86_400.0
MODES = {
    "direct": "Direct: each line is a call of its own",
    "native": "Native: the provider's batch API, at its batch price",
    "auto": "Auto: native where it costs less, else direct",
}
ON_LOST = {"retry": "Retry the line (it may be charged twice)", "fail": "Fail the line"}


def form_page(entered: Mapping[str, str], error: WeirError | None = None) -> Response:
    """The form as it was filled in, with what is wrong with it."""
    own = {"id": user().key.id, "name": f"account {user().username}"}
    details = (error.details or {}) if isinstance(error, ValidationError) else {}
    errors = {name: " ".join(details[name]) for name in details if name in {*FIELDS, "file"}}
    response = page(
        "batch_form.html",
        entered=entered,
        error=None if errors else error,
        errors=errors,
        keys=[own, *visible_keys(state=WORKS)],
        endpoints=services().batch_endpoints,
        modes=MODES,
        on_lost=ON_LOST,
        max_bytes=services().settings.files_max_bytes,
    )
    response.status_code = error.status if error else 200
    return response


def start_batch(form: FileForm, filename: str) -> Batch:
    """Store the file, and create a batch of it. Raises WeirError."""
    key_id, settings = _acting_key(form.fields), _settings(form.fields)
    consume()
    g.admitted = True
    services().batches.check_count(key_id)
    count_body(files.UPLOAD_MEMORY)
    name = files.safe_name(filename)
    file = services().files.save(key_id, PURPOSE, name, form.file())
    return services().batches.create(
        key_id=key_id,
        input_file_id=file.id,
        completion_window=WINDOW,
        seconds=WINDOW_SECONDS,
        output_expires_after=None,
        request_id=request_context.current().request_id,
        actor=actor(),
        **settings,
    )


def _acting_key(fields: Mapping[str, str]) -> int:
    """The id of the key that the batch is for, as which this request counts."""
    key_id = number_of(fields.get("key"), LARGEST_ID) or 0
    visible = visible_ids()
    principal = services().identities.of_key_id(key_id)
    if principal is None or (visible is not None and key_id not in visible):
        raise _invalid("key", "Choose a key of yours that is active.")
    if not principal.allowance.allows_address(request.remote_addr):
        raise AddressNotAllowed
    g.principal = principal
    request_context.current().endpoint = ENDPOINT
    return key_id


def _settings(fields: Mapping[str, str]) -> dict[str, Any]:
    """What the form says of a batch; `metadata` says it as a client of the API would."""
    endpoint, cap = fields.get("endpoint", ""), fields.get("cap", "").strip()
    mode, on_lost = fields.get("mode", Mode.DIRECT), fields.get("on_lost", "retry")
    if endpoint not in services().batch_endpoints:
        raise _invalid("endpoint", f"Must be one of {', '.join(services().batch_endpoints)}.")
    for name, value, choices in (("mode", mode, MODES), ("on_lost", on_lost, ON_LOST)):
        if value not in choices:
            raise _invalid(name, f"Must be one of {', '.join(choices)}.")
    try:
        cap_nano = money.to_nano(cap) if cap else None
    except ValueError as error:
        raise _invalid("cap", sentence(str(error))) from None
    metadata = {"weir_mode": mode, "weir_on_lost": on_lost}
    if cap:
        metadata["weir_cost_cap_usd"] = cap
    return {
        "endpoint": endpoint,
        "mode": Mode(mode),
        "on_lost": on_lost,
        "cap_nano": cap_nano,
        "metadata": metadata,
    }


def _invalid(field: str, reason: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {field}.", details={field: [reason]})
