"""POST /predict and /batch-predict: inference on the models of MODEL_PATH."""

from __future__ import annotations

from typing import Any

from flask import Response, g

from webapp import json_codec
from webapp.admission import guard_without_counting
from webapp.admission.identity import Principal
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, Blueprint
from webapp.api.cache_control import cache_use
from webapp.api.openapi import ACCEPTED, NATIVE_HEADERS, ONE_OF_THEM, errors_of
from webapp.api.schemas import BatchBody, BatchPrediction, ModelList, PredictBody, PredictionAnswer
from webapp.errors import ModelNotAllowed, ValidationError
from webapp.inference.predictions import Predicted, PredictionInput
from webapp.observability import request_context
from webapp.services import services

blueprint = AnsweringBlueprint(
    "predict", __name__, description="Your own models", max_body=MEBIBYTE
)
listing = guard_without_counting(Blueprint("predict_models", __name__))

EXAMPLE = {"features": [112, 118, 132, 129]}
BATCH_EXAMPLE = {"requests": [EXAMPLE, {"features": [1, 2, 3], "model": "forecast"}]}


@blueprint.post("/predict")
@blueprint.doc(security=ONE_OF_THEM, parameters=NATIVE_HEADERS, responses=ACCEPTED)
@errors_of(400, 401, 403, 404, 409, 413, 415, 422, 429, 502, 503)
@blueprint.arguments(PredictBody(), example=EXAMPLE)
@blueprint.response(200, PredictionAnswer)
def predict(body: dict[str, Any]) -> Any:
    """Predict from one row of features"""
    [predicted] = _predict([body])
    latency = round(request_context.current().milliseconds, 2)
    request_id = {"request_id": request_context.current().request_id}
    return _to_dict(predicted, latency) | request_id, 200, _headers([predicted])


@blueprint.post("/batch-predict")
@blueprint.doc(security=ONE_OF_THEM, parameters=NATIVE_HEADERS, responses=ACCEPTED)
@errors_of(400, 401, 403, 404, 409, 413, 415, 422, 429, 502, 503)
@blueprint.arguments(BatchBody(), example=BATCH_EXAMPLE)
@blueprint.response(200, BatchPrediction)
def batch_predict(body: dict[str, Any]) -> Any:
    """Predict from many rows; rows of equal length run as one batch of their model"""
    try:
        answers = _predict(body["requests"])
    except ValidationError as error:
        details = {"requests": {str(getattr(error, "row", 0)): error.details}}
        raise ValidationError("The request is not valid: requests.", details=details) from None
    latency = round(request_context.current().milliseconds, 2)
    request_id = request_context.current().request_id
    response = {
        "predictions": [_to_dict(item, latency) | {"request_id": request_id} for item in answers],
        "total_latency_ms": latency,
        "request_id": request_id,
    }
    # Not dumped with the schema: for a hundred rows that would block streams.
    content = json_codec.dumps(response)
    return Response(content, mimetype="application/json", headers=_headers(answers))


@listing.get("/predict/models")
@listing.doc(security=ONE_OF_THEM)
@errors_of(400, 401, 403, 429, 503)
@listing.response(200, ModelList)
def models() -> dict[str, Any]:
    """List the models and their versions, newest first"""
    principal: Principal = g.principal
    listed = services().predictions.registry.listed()
    allowed = principal.allowance.allows_model
    return {"models": [model for model in listed if allowed(str(model["model"]))]}


def _predict(bodies: list[dict[str, Any]]) -> list[Predicted]:
    rows = [
        PredictionInput(tuple(body["features"]), body["model"], body["model_version"])
        for body in bodies
    ]
    context = request_context.current()
    context.asked_model = rows[0].model
    principal: Principal = g.principal
    registry = services().predictions.registry
    for row in rows:
        name = registry.find(row.model, row.version).name
        if not principal.allowance.allows_model(name):
            raise ModelNotAllowed(f"This API key is not allowed to use model {name!r}.")
    use = cache_use()
    answers = services().predictions.predict(rows, use)
    context.model = answers[0].model
    context.cache = "HIT" if all(answer.age is not None for answer in answers) else "MISS"
    if not use.read:
        context.cache = "BYPASS"
    return answers


def _to_dict(predicted: Predicted, latency: float) -> dict[str, Any]:
    return {
        "prediction": predicted.value,
        "confidence": predicted.confidence,
        "latency_ms": latency,
        "cached": predicted.age is not None,
        "model": predicted.model,
        "model_version": predicted.version,
    }


def _headers(answers: list[Predicted]) -> dict[str, str]:
    headers = {"X-Cache": str(request_context.current().cache)}
    ages = [answer.age for answer in answers if answer.age is not None]
    if len(ages) == len(answers):
        headers["Age"] = str(int(max(ages)))
    return headers
