"""POST /token: a JWT for a username and a password."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request

from webapp.accounts.tokens import TOKEN_TTL
from webapp.admission import public
from webapp.admission.credential_limits import authenticate
from webapp.api.blueprint import FORM_BYTES, Blueprint, limit_body, read_json, validated
from webapp.api.openapi import errors_of
from webapp.api.schemas import TokenAnswer, TokenBody
from webapp.errors import NotAuthenticated
from webapp.services import services

blueprint = public(Blueprint("token", __name__, description="Accounts"))
blueprint.before_request(lambda: limit_body(FORM_BYTES))

FORM = "application/x-www-form-urlencoded"
EXAMPLE = {"username": "admin", "password": "correct horse battery staple"}
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": TokenBody, "example": EXAMPLE},
        FORM: {"schema": TokenBody},
    },
}


@blueprint.post("/token")
@blueprint.doc(requestBody=BODY)
@errors_of(400, 401, 413, 415, 422, 429, 503)
@blueprint.response(200, TokenAnswer)
def token() -> Response:
    """Get an access token for an account, valid for 30 minutes; JSON or form"""
    sent: dict[str, Any] = read_json() if request.mimetype != FORM else request.form.to_dict()
    if request.mimetype == FORM:
        # Other fields of OAuth 2's form (RFC 6749, 4.3.2) are ignored.
        sent = {name: value for name, value in sent.items() if name in EXAMPLE}
    body = validated(TokenBody(), sent)
    account = authenticate(services().accounts, body["username"], body["password"])
    if account is None:
        raise NotAuthenticated("Wrong username or password.")
    services().accounts.note_sign_in(account)
    issued = services().tokens.issue(account)
    response = jsonify(access_token=issued, token_type="bearer", expires_in=TOKEN_TTL)  # noqa: S106
    response.headers["Cache-Control"] = "no-store"
    return response
