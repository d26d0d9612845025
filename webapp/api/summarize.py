"""POST /summarize: the summary of a text of any length."""

from __future__ import annotations

from typing import Any

from flask import g

from webapp.admission.identity import Principal
from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.dialects.native import NativeEvents
from webapp.api.openapi import answers_and_errors
from webapp.api.schemas import MAX_TEXT_LENGTH, SummarizeAnswer, SummarizeBody
from webapp.errors import ValidationError
from webapp.llm.messages import FinalAnswer, ModelRequest
from webapp.llm.tasks.summarize import SummaryStream, summarize, summary_request
from webapp.observability.request_context import RequestContext
from webapp.services import services

EXAMPLE = {
    "text": "A weir is a low barrier across a river. It raises the water upstream and lets the "
    "rest flow over its crest. Mills were built at weirs, since the fall of the water turns a "
    "wheel. Today weirs mostly measure and regulate the flow.",
    "length": "short",
}


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body, for a text that fits in one chunk."""
    return summary_request(body["text"], body["length"], body["model"], stream=body["stream"])


def check(body: dict[str, Any]) -> None:
    """Raise ValidationError for a text that is too long for the tier of this request."""
    # Tiers that the operator added have the maximum of premium.
    principal: Principal = g.principal
    tier_max = MAX_TEXT_LENGTH.get(principal.tier, MAX_TEXT_LENGTH["premium"])
    max_length = principal.allowance.max_text or tier_max
    if len(body["text"]) > max_length:
        reason = f"Longer than maximum length {max_length} of tier {principal.tier}."
        raise ValidationError("The request is not valid: text.", details={"text": [reason]})


blueprint = AnsweringBlueprint(
    "summarize",
    __name__,
    description="Summarize texts",
    max_body=8 * MEBIBYTE,
    model_endpoint=ModelEndpoint("/summarize", SummarizeBody(), to_model_request, check),
)


@blueprint.post("/summarize")
@answers_and_errors
@blueprint.arguments(SummarizeBody(), example=EXAMPLE)
@blueprint.response(200, SummarizeAnswer)
def summarize_text(body: dict[str, Any]) -> Any:
    """Summarize a text; long texts are split into chunks, whose summaries are merged"""
    text = body["text"]
    check(body)

    def describe(final: FinalAnswer, context: RequestContext) -> dict[str, Any]:
        summary = final.answer.content
        lengths = {"original_length": len(text), "summary_length": len(summary)}
        return {"summary": summary, **lengths, **answers.tail(final, context)}

    answers.keep_prompt(body)
    options = answers.call_options(body["model"], body, streamed=body["stream"])
    arguments = (services().gateway, text, body["length"], body["model"], options)
    if body["stream"]:
        return answers.stream(SummaryStream(*arguments), NativeEvents(describe))
    return answers.answer(summarize(*arguments), describe)
