"""POST /v1/explain: a dry run of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import request
from werkzeug.exceptions import HTTPException

from webapp import money
from webapp.admission import guard_without_counting
from webapp.admission.bodies import SMALL
from webapp.admission.limits import check_dry_run, count_costly_dry_run
from webapp.api import answers
from webapp.api.blueprint import (
    MEBIBYTE,
    Blueprint,
    ModelEndpoint,
    limit_body,
    read_json,
    validated,
)
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI
from webapp.api.key import budgets_left, limits_left
from webapp.api.openapi import ONE_OF_THEM, SESSION, openai_errors_of
from webapp.api.schemas import Explanation
from webapp.errors import ValidationError, WeirError
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import ANTHROPICS_OPERATION, Route
from webapp.llm.tokens import (
    estimate_input_tokens,
    estimate_messages_tokens,
    estimate_responses_tokens,
)
from webapp.services import services


def make_blueprint(endpoints: Sequence[ModelEndpoint], example: dict[str, Any]) -> Blueprint:
    """The blueprint that explains requests to these endpoints; the first one is the default."""
    blueprint = speaking(
        OPENAI,
        guard_without_counting(Blueprint("explain", __name__, description="Explain a request")),
    )
    blueprint.before_request(lambda: limit_body(20 * MEBIBYTE))
    by_path = {endpoint.path: endpoint for endpoint in endpoints}
    default = endpoints[0]
    parameter = {
        "name": "endpoint",
        "in": "query",
        "required": False,
        "schema": {"type": "string", "enum": list(by_path), "default": default.path},
        "description": "The endpoint that the body is for.",
    }
    content = {"application/json": {"schema": default.schema, "example": example}}

    @blueprint.post("/explain")
    @blueprint.doc(
        security=ONE_OF_THEM,
        parameters=[parameter, SESSION],
        requestBody={"required": True, "content": content},
    )
    @openai_errors_of(400, 401, 404, 413, 415, 429, 503)
    @blueprint.response(200, Explanation)
    def explain() -> dict[str, Any]:
        """Dry run: route, cache result, limits and cost ceiling of a request; consumes nothing"""
        endpoint = by_path.get(request.args.get("endpoint", default.path))
        if endpoint is None:
            details = {"endpoint": [f"Must be one of {', '.join(by_path)}."]}
            raise ValidationError("This endpoint cannot be explained.", details=details)
        check_dry_run()
        try:
            explanation = _explanation(endpoint)
        except (WeirError, HTTPException) as error:
            status = error.status if isinstance(error, WeirError) else error.code or 500
            if status < 500 and status != 429:
                count_costly_dry_run()
            raise
        if (request.content_length or SMALL) >= SMALL:
            count_costly_dry_run()
        return explanation

    return blueprint


def _explanation(endpoint: ModelEndpoint) -> dict[str, Any]:
    body = validated(endpoint.schema, read_json())
    endpoint.check(body)
    model_request = endpoint.to_model_request(body)
    options = answers.call_options(
        model_request.model, model_request.body, streamed=model_request.stream, counted=False
    )
    forecast = services().gateway.forecast(model_request, options)
    return {
        "route": forecast.route.name,
        "targets": [target.name for target in forecast.route.targets],
        "cache": str(forecast.cache),
        "would_coalesce": forecast.would_coalesce,
        "limits": limits_left(options.session),
        "budget": budgets_left(options.billing),
        "cost_ceiling_usd": money.to_usd(forecast.ceiling.nano),
        "price_source": _price_source(forecast.route),
        "input_tokens": _input_tokens(model_request),
    }


def _input_tokens(model_request: ModelRequest) -> int:
    if model_request.operation == "responses":
        return estimate_responses_tokens(model_request.body)
    anthropic = model_request.operation == ANTHROPICS_OPERATION
    estimate = estimate_messages_tokens if anthropic else estimate_input_tokens
    return estimate(model_request.body)


def _price_source(route: Route) -> str | None:
    """Where the prices of the targets come from; None where one has no price."""
    prices = services().prices
    found = [prices.of(t.provider.name, t.provider.kind, t.model) for t in route.targets]
    sources = dict.fromkeys(price.source for price in found if price)
    return "; ".join(sources) if all(found) else None
