"""Request and response schemas, except those of /admin."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields, validate

from webapp.api.blueprint import (
    BoundedList,
    ModelName,
    Number,
    Numbers,
    ObjectList,
    StrictBoolean,
    StrictInteger,
    Text,
)
from webapp.batches.job import JobStatus
from webapp.llm.tasks.chat import DEFAULT_TEMPERATURE
from webapp.llm.tasks.generate import DEFAULT_MAX_TOKENS

# Characters.
MAX_MESSAGE_LENGTH = 10_000
MAX_TEXT_LENGTH = {"free": 5_000, "premium": 50_000, "enterprise": 500_000}

TEMPERATURE = validate.Range(0, 2)
MAX_TOKENS = validate.Range(1, 4_000)
STREAM = {"description": "Stream the answer as server-sent events."}


class HistoryEntry(Schema):
    role = fields.String(required=True, validate=validate.OneOf(["system", "user", "assistant"]))
    content = Text(required=True, max_length=100_000)


class ChatBody(Schema):
    message = Text(required=True, max_length=MAX_MESSAGE_LENGTH)
    temperature = Number(
        load_default=None,
        allow_none=False,
        validate=TEMPERATURE,
        metadata={"default": DEFAULT_TEMPERATURE},
    )
    max_tokens = StrictInteger(load_default=None, validate=MAX_TOKENS)
    model = ModelName(load_default=None)
    system = Text(load_default=None, max_length=MAX_MESSAGE_LENGTH)
    history = fields.List(
        fields.Nested(HistoryEntry), load_default=list, validate=validate.Length(max=200)
    )
    stream = StrictBoolean(load_default=False, metadata=STREAM)


class SummarizeBody(Schema):
    text = Text(
        required=True,
        min_length=10,
        max_length=max(MAX_TEXT_LENGTH.values()),
        metadata={"description": "Up to 5,000 characters on tier free, 50,000 on premium."},
    )
    length = fields.String(
        load_default="medium", validate=validate.OneOf(["short", "medium", "long"])
    )
    model = ModelName(load_default=None)
    stream = StrictBoolean(load_default=False, metadata=STREAM)


class GenerateBody(Schema):
    prompt = Text(required=True, max_length=MAX_MESSAGE_LENGTH)
    max_tokens = StrictInteger(
        load_default=None,
        allow_none=False,
        validate=MAX_TOKENS,
        metadata={"default": DEFAULT_MAX_TOKENS},
    )
    temperature = Number(load_default=None, validate=TEMPERATURE)
    model = ModelName(load_default=None)
    stream = StrictBoolean(load_default=False, metadata=STREAM)


class OpenAIBody(Schema):
    """The fields of OpenAI's requests that Weir reads. Others are passed to the provider."""

    class Meta:
        unknown = INCLUDE

    model = ModelName(allow_none=True)


class CompletionBody(OpenAIBody):
    messages = ObjectList(required=True, min_length=1)
    stream = StrictBoolean(allow_none=True, metadata=STREAM)
    stream_options = fields.Dict(keys=fields.String(), allow_none=True)


class EmbeddingsBody(OpenAIBody):
    input = fields.Raw(required=True)


class ResponsesBody(OpenAIBody):
    background = StrictBoolean(allow_none=True)
    previous_response_id = fields.String(allow_none=True)
    store = StrictBoolean(allow_none=True)
    stream = StrictBoolean(allow_none=True, metadata=STREAM)


class CountTokensBody(Schema):
    """The fields of Anthropic's requests that Weir reads. Others are passed to the provider."""

    class Meta:
        unknown = INCLUDE

    model = ModelName(allow_none=True)
    messages = ObjectList(required=True, min_length=1)


class MessagesBody(CountTokensBody):
    max_tokens = StrictInteger(
        required=True,
        validate=validate.Range(min=0),
        metadata={"minimum": 1, "description": "With a Claude also 0, to fill its prompt cache."},
    )
    stream = StrictBoolean(allow_none=True, metadata=STREAM)


class TokenCountSchema(Schema):
    input_tokens = fields.Integer(required=True)


class UsageSchema(Schema):
    input_tokens = fields.Integer()
    output_tokens = fields.Integer()
    total_tokens = fields.Integer()


class CompletionUsageSchema(Schema):
    prompt_tokens = fields.Integer()
    completion_tokens = fields.Integer()
    total_tokens = fields.Integer()


class Tail(Schema):
    """The fields that answers of /chat and /summarize end with."""

    tokens_used = fields.Integer()
    cached = fields.Boolean()
    model = fields.String()
    provider = fields.String()
    usage = fields.Nested(UsageSchema)
    cost_usd = fields.Float(
        allow_none=True,
        metadata={"description": "0 for a cache hit, null if the model has no price."},
    )
    request_id = fields.String()


class ChatAnswer(Tail):
    response = fields.String()

    class Meta:
        fields = ("response", *Tail().fields)


class SummarizeAnswer(Tail):
    summary = fields.String()
    original_length = fields.Integer(metadata={"description": "Characters."})
    summary_length = fields.Integer(metadata={"description": "Characters."})

    class Meta:
        fields = ("summary", "original_length", "summary_length", *Tail().fields)


class GenerateAnswer(Schema):
    content = fields.String()
    model = fields.String()
    usage = fields.Nested(CompletionUsageSchema)
    latency_ms = fields.Float()
    cached = fields.Boolean()
    provider = fields.String()
    cost_usd = fields.Float(allow_none=True)
    request_id = fields.String()


class NewJobSchema(Schema):
    id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(["queued"]))


class JobSchema(Schema):
    """A job. `response` or `error` are there once it is `completed` or `failed`."""

    id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(list(JobStatus)))
    endpoint = fields.String(required=True)
    created_at = fields.Integer(required=True, metadata={"description": "Unix seconds."})
    expires_at = fields.Integer(
        required=True, metadata={"description": "When it expires, unless it has begun by then."}
    )
    ended_at = fields.Integer(required=True, allow_none=True)
    request_id = fields.String(
        required=True, metadata={"description": "Of the request that created it."}
    )
    status_code = fields.Integer(metadata={"description": "Of the endpoint's response."})
    response = fields.Dict(metadata={"description": "What the endpoint would have sent."})
    error = fields.Dict(metadata={"description": "The error that the endpoint would have sent."})


class ErrorSchema(Schema):
    """Every error of the native endpoints."""

    error = fields.String(required=True, metadata={"example": "ValidationError"})
    message = fields.String(required=True)
    details = fields.Dict(allow_none=True, required=True)
    path = fields.String(required=True)
    request_id = fields.String(required=True)


class OpenAIErrorBody(Schema):
    message = fields.String(required=True)
    type = fields.String(required=True)
    param = fields.String(required=True, allow_none=True)
    code = fields.String(required=True, allow_none=True)


class OpenAIErrorSchema(Schema):
    """Every error of OpenAI's endpoints."""

    error = fields.Nested(OpenAIErrorBody, required=True)


class AnthropicErrorBody(Schema):
    type = fields.String(required=True)
    message = fields.String(required=True)


class AnthropicErrorSchema(Schema):
    """Every error of Anthropic's endpoints."""

    type = fields.String(required=True, validate=validate.OneOf(["error"]))
    error = fields.Nested(AnthropicErrorBody, required=True)
    request_id = fields.String(required=True)


class StatsSchema(Schema):
    """Public figures. Fields from `errors` on are only returned with a credential."""

    total_requests = fields.Integer()
    cache_hits = fields.Integer()
    cache_misses = fields.Integer()
    cache_hit_rate = fields.Float()
    total_api_keys = fields.Integer()
    requests_by_key = fields.Dict(keys=fields.String(), values=fields.Integer())
    errors = fields.Integer()
    tokens = fields.Integer()
    cost_usd = fields.Float()
    saved_tokens = fields.Integer()
    saved_usd = fields.Float()
    latency_ms = fields.Dict(keys=fields.String(), values=fields.Float(allow_none=True))
    since = fields.String()
    you = fields.Dict()


class HealthSchema(Schema):
    status = fields.String(validate=validate.OneOf(["healthy", "degraded", "unhealthy"]))
    score = fields.Integer(validate=validate.Range(0, 100))
    version = fields.String()
    timestamp = fields.String()
    checks = fields.Dict(keys=fields.String(), values=fields.String())
    response_time_ms = fields.Float()


class TokenBody(Schema):
    username = fields.String(required=True, validate=validate.Length(1, 100))
    password = fields.String(required=True, validate=validate.Length(1, 256))


class TokenAnswer(Schema):
    access_token = fields.String()
    token_type = fields.String(validate=validate.OneOf(["bearer"]))
    expires_in = fields.Integer(metadata={"description": "Seconds."})


class PredictBody(Schema):
    features = Numbers(metadata={"description": "As many numbers as the model has inputs."})
    model = fields.String(load_default=None, validate=validate.Length(1, 200))
    model_version = fields.String(load_default=None, validate=validate.Length(1, 200))


class BatchBody(Schema):
    requests = BoundedList(fields.Nested(PredictBody))


class PredictionAnswer(Schema):
    prediction = fields.Raw(metadata={"description": "A number, or a class label."})
    confidence = fields.Float(
        allow_none=True, metadata={"description": "Probability of the class, 0 to 1."}
    )
    latency_ms = fields.Float()
    cached = fields.Boolean()
    model = fields.String()
    model_version = fields.String()
    request_id = fields.String()


class BatchPrediction(Schema):
    predictions = fields.List(fields.Nested(PredictionAnswer))
    total_latency_ms = fields.Float()
    request_id = fields.String()


class ListedModel(Schema):
    model = fields.String()
    model_version = fields.String()
    error = fields.String(allow_none=True)


class ModelList(Schema):
    models = fields.List(fields.Nested(ListedModel))


class Explanation(Schema):
    """What a request would do."""

    route = fields.String()
    targets = fields.List(fields.String())
    cache = fields.String()
    would_coalesce = fields.Boolean()
    limits = fields.List(fields.Dict())
    budget = fields.List(fields.Dict())
    cost_ceiling_usd = fields.Float(
        allow_none=True, metadata={"description": "Null where a target has no price."}
    )
    price_source = fields.String(
        allow_none=True,
        metadata={
            "description": "Where the prices come from: `MODEL_PRICES`, or a table and its "
            "date. Null where a target has no price."
        },
    )
    input_tokens = fields.Integer()
