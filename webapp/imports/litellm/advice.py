"""What to do about each key of LiteLLM's file that Weir has no counterpart of."""

from __future__ import annotations

from webapp.imports.document import Path
from webapp.imports.report import Report

UNKNOWN = "Weir has no such setting. It is left out."
CLIENTS = "Weir adds no parameters to requests. Let clients send it."
AMAZON = (
    "Weir uses the credentials of its own environment, as every program on boto3: AWS_PROFILE, "
    "AWS_ACCESS_KEY_ID, a role. One set for all models."
)
AZURE = "Weir signs in to Azure OpenAI by key only. Set the provider's _API_KEY."
VERTEX = (
    "Weir uses Google's application default credentials: GOOGLE_APPLICATION_CREDENTIALS and "
    "GOOGLE_CLOUD_PROJECT."
)
TARGET_LIMIT = (
    "Weir limits keys, not targets; a target that answers 429 is skipped for its Retry-After. "
    "Limit keys: requests_per_minute, tokens_per_minute."
)
CALLBACKS = (
    "Weir calls no logging services. It has a request log, Prometheus metrics, JSON logs and "
    "OpenTelemetry traces (OTEL_EXPORTER_OTLP_ENDPOINT): docs/operating.md."
)
GUARDRAILS = "Weir has no guardrails but PROMPT_DENYLIST, for its native endpoints."
ONE_TIMEOUT = "Weir has one timeout for all targets: LLM_TIMEOUT."
STREAM_TIMEOUT = "In streams, LLM_TIMEOUT bounds the first chunk and each gap."
FALLBACKS = (
    "Weir goes on with the next target when one fails, not when it refuses the request (400). Name "
    "another model, or put the one with the larger window first."
)
TEAMS = "Weir has no teams. A key has its own limits; an account can own several keys."
NO_NEED = "Not needed: it changes nothing that Weir does."
SIGN_ON = "People sign in to Weir by name and password (flask accounts create); programs use keys."
KEYS = "Limits of new keys are those of their tier: TIERS, TIER_<NAME>."
SECRETS = "Secret settings can refer to a secrets manager: docs/deploying/secrets.md."
POOL = "Weir chooses the size of its connection pool itself."

ADVICE = {
    # A deployment's parameters.
    **dict.fromkeys(
        ("temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "n", "user",
         "frequency_penalty", "response_format", "reasoning_effort", "thinking", "extra_body",
         "max_completion_tokens", "stream", "logprobs", "tools", "tool_choice", "num_ctx",
         "default_params"), CLIENTS),
    "extra_headers": "Weir adds no headers to calls of providers.",
    "headers": "Weir adds no headers to calls of providers.",
    "organization": "Weir sends no OpenAI-Organization. Use a key of that organization or project.",
    "drop_params": "Weir passes parameters on; what a target of another protocol lacks is a 400.",
    "modify_params": "Weir passes requests on as they are.",
    **dict.fromkeys(
        ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_session_name",
         "aws_profile_name", "aws_role_name", "aws_web_identity_token",
         "aws_bedrock_runtime_endpoint", "aws_sts_endpoint"), AMAZON),
    **dict.fromkeys(("vertex_project", "vertex_location", "vertex_credentials"), VERTEX),
    **dict.fromkeys(
        ("azure_ad_token", "azure_ad_token_provider", "tenant_id", "client_id", "client_secret",
         "azure_username", "azure_password", "enable_azure_ad_token_refresh"), AZURE),
    **dict.fromkeys(("rpm", "tpm", "max_parallel_requests"), TARGET_LIMIT),
    "max_budget": "Weir has budgets of keys: usd_per_day, usd_per_month.",
    "budget_duration": "Weir has budgets of keys: usd_per_day, usd_per_month.",
    "stream_timeout": STREAM_TIMEOUT,
    "max_retries": "Weir has one number of retries for all targets: LLM_MAX_RETRIES.",
    "num_retries": "Weir has one number of retries for all targets: LLM_MAX_RETRIES.",
    "cooldown_time": "Weir has one pause for all circuits: BREAKER_PAUSE.",
    "tags": "Weir does not route by tags. Make a route for each, and allow it per key (models).",
    "region_name": "Weir does not filter targets by region. Make a route for each.",
    "mock_response": "Weir has no made-up answers.",
    "input_cost_per_second": "Weir prices tokens. Set MODEL_PRICES, or UNPRICED_MODELS=allow.",
    "output_cost_per_second": "Weir prices tokens. Set MODEL_PRICES, or UNPRICED_MODELS=allow.",
    "allowed_openai_params": NO_NEED,
    "use_in_pass_through": "Weir has no pass-through endpoints.",
    "cache_control_injection_points": "Weir adds no cache_control. Let clients send it.",
    # router_settings
    "routing_strategy": "Weir draws targets by weight and keeps a conversation on its target; it "
    "has no other strategies.",
    "enable_tag_filtering": "Weir does not route by tags. Make a route for each.",
    "tag_filtering_match_any": "Weir does not route by tags. Make a route for each.",
    "enable_pre_call_checks": FALLBACKS,
    "retry_policy": "Weir retries 429, 5xx and lost connections; LLM_MAX_RETRIES is for all.",
    "model_group_retry_policy": "Weir has one number of retries for all targets: LLM_MAX_RETRIES.",
    "allowed_fails_policy": "BREAKER_FAILURES counts timeouts, 5xx, 429 and lost connections.",
    "retry_after": "Weir waits as the provider's Retry-After says.",
    "max_fallbacks": "Weir tries each target of a route once, within LLM_DEADLINE.",
    "provider_budget_config": "Weir has budgets of keys, not of providers.",
    "optional_pre_call_checks": "Weir keeps a conversation on its target by itself.",
    "content_policy_fallbacks": FALLBACKS,
    "context_window_fallbacks": FALLBACKS,
    "default_litellm_params": CLIENTS,
    # litellm_settings
    **dict.fromkeys(
        ("callbacks", "success_callback", "failure_callback", "service_callbacks",
         "langfuse_default_tags", "redact_user_api_key_info", "callback_settings",
         "turn_off_message_logging", "default_langfuse_params"), CALLBACKS),
    **dict.fromkeys(
        ("set_verbose", "json_logs", "telemetry", "enable_json_schema_validation",
         "disable_hf_tokenizer_download", "force_ipv4", "enable_preview_features",
         "include_cost_in_streaming_usage", "require_auth_for_metrics_endpoint"), NO_NEED),
    **dict.fromkeys(
        ("default_team_settings", "default_team_params", "default_internal_user_params",
         "max_internal_user_budget", "internal_user_budget_duration", "max_end_user_budget",
         "max_end_user_budget_id", "default_max_internal_user_budget"), TEAMS),
    **dict.fromkeys(
        ("upperbound_key_generate_params", "default_key_generate_params",
         "key_generation_settings"), KEYS),
    "mcp_aliases": "Weir is no MCP gateway.",
    "mcp_servers": "Weir is no MCP gateway.",
    "cache_params": "Weir has an exact cache in the process or in Redis: CACHE_TTL, REDIS_URL.",
    # general_settings
    "alerting": "Weir tells of budgets by ALERT_WEBHOOK_URL (Standard Webhooks), of all else by "
    "Prometheus: deploy/observability.",
    "alerting_threshold": "See the alert rules in deploy/observability.",
    "alert_types": "See the alert rules in deploy/observability.",
    **dict.fromkeys(
        ("custom_auth", "enable_jwt_auth", "litellm_jwtauth", "enable_oauth2_auth",
         "ui_access_mode", "custom_sso", "custom_ui_sso_sign_in_handler", "allowed_routes"),
        SIGN_ON),
    "pass_through_endpoints": "Weir has no pass-through endpoints. Call that service directly.",
    "global_max_parallel_requests": "Weir limits the parallel requests of each key.",
    "infer_model_from_keys": "Weir serves the models of MODEL_ROUTES.",
    "background_health_checks": "Weir's health checks call no model: GET /health.",
    "health_check_interval": "Weir's health checks call no model: GET /health.",
    "health_check_details": "Weir's health checks call no model: GET /health/detailed.",
    "database_connection_pool_limit": POOL,
    "database_connection_timeout": POOL,
    "allow_requests_on_db_unavailable": "Weir serves cached answers meanwhile, and refuses calls.",
    "key_management_system": SECRETS,
    "key_management_settings": SECRETS,
    "store_prompts_in_spend_logs": "LOG_PROMPTS=true stores prompts with each request.",
    "maximum_spend_logs_retention_period": "LEDGER_RETENTION and REQUEST_LOG_RETENTION, in days.",
    "enforce_user_param": "Weir needs no user parameter: keys say who asks.",
    "forward_client_headers_to_llm_api": "Weir forwards Anthropic's headers only.",
    "max_request_size_mb": "MAX_BODY_BYTES, in bytes.",
    "disable_spend_logs": "Weir always writes its ledger.",
    "disable_master_key_return": NO_NEED,
    "disable_adding_master_key_hash_to_db": NO_NEED,
    "disable_reset_budget": "Budgets of Weir begin anew each UTC day and month.",
    "use_redis_transaction_buffer": NO_NEED,
    "proxy_batch_write_at": NO_NEED,
    # The top of the file.
    "guardrails": GUARDRAILS,
    "prompts": "Weir has no prompt management.",
    "vector_store_registry": "Weir has no vector stores.",
    "search_tools": "Weir has no search of its own; tools of providers pass through.",
    "files_settings": "Weir has /v1/files and /v1/batches of its own: docs/batches.md.",
    "finetune_settings": "Weir has no fine-tuning endpoints.",
    "assistant_settings": "Weir has no Assistants API. /v1/responses is there.",
    "include": "Files named here are not read. Import each, or put their text into one file.",
}  # fmt: skip


def note_rest(report: Report, path: Path, section: dict[str, object], known: set[str]) -> None:
    """Report every key of a section that the import does not read."""
    for key, value in section.items():
        if key not in known and value is not None:
            report.missing((*path, str(key)), ADVICE.get(str(key), UNKNOWN))
