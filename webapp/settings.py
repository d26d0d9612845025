"""Every setting of Weir: name, type, default and meaning. The only reader of the environment."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from webapp import database_url, named_settings, platforms, secrets_managers, settings_checks
from webapp import setting_parsers as parse
from webapp.allowance import Allowance
from webapp.base_url import BaseURL
from webapp.named_settings import PROVIDER_VARIABLE, TIER_VARIABLE
from webapp.secrets_managers import Found, Reference, SecretError, parse_secret
from webapp.setting_parsers import (
    DEFAULT_TIERS,
    DEMO_KEYS,
    ConfiguredKey,
    ConfiguredProvider,
    PriceEntry,
    RoutedModel,
)

ROOT = Path(__file__).resolve().parent.parent
PASSWORD_FIELDS = frozenset({"password", "sslpassword", "ssl_password"})  # in the query of a URL
DEFAULT_DENYLIST = "<script\\b\njavascript:\ndata:[\\w/+.-]+[;,]"


# Their values may look like references: patterns, and a folder's address.
NEVER_REFERENCES = frozenset({"PROMPT_DENYLIST", "LOG_REDACT", "FILES_URL"})

log = logging.getLogger(__name__)


class SettingsError(Exception):
    """One or more settings are invalid; the message names each and what to set instead."""

    def __init__(self, *problems: str) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"Weir does not start. Please set:\n{lines}")
        self.problems = problems


def _setting(
    variable: str,
    default: Any,
    meaning: str,
    parse: Callable[[str], Any] = str,
    *,
    secret: bool = False,
    shown: str | None = None,
) -> Any:
    """One setting. `default` is the text that the environment variable would have.

    `shown` is the default as documented, if it differs from that text.
    """
    metadata = {
        "variable": variable,
        "default": default,
        "meaning": meaning,
        "parse": parse,
        "secret": secret,
        "shown": default if shown is None else shown,
    }
    return field(default=MISSING, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, parsed and checked. Times are in seconds, sizes in bytes."""

    app_env: str = _setting(
        "APP_ENV", "", "`development` or `production`",
        parse.one_of("", "development", "production"),
        shown="`production` on Heroku, Render, Railway, ECS, Cloud Run, Container Apps, Lambda, "
        "Kubernetes and in the Docker image, else `development`",
    )  # fmt: skip
    host: str = _setting(
        "HOST", "", "address to listen on; `::` for IPv6 (and, on most systems, IPv4)", parse.host,
        shown="`127.0.0.1` in development, else `0.0.0.0`",
    )  # fmt: skip
    port: int = _setting("PORT", "8000", "port to listen on", parse.integer(1, 65535))
    debug: bool = _setting("DEBUG", "false", "never in production", parse.flag)
    secret_key: str = _setting(
        "SECRET_KEY", "", "signs sessions and tokens; at least 16 characters", secret=True,
        shown="generated and kept in `DATA_DIR` in development; required in production",
    )  # fmt: skip
    admin_username: str = _setting("ADMIN_USERNAME", "admin", "the first administrator")
    admin_password: str = _setting(
        "ADMIN_PASSWORD", "", "the first administrator's password, at least 12 characters; changed "
        "later by `flask accounts set-password`", secret=True,
        shown="generated and printed once in development; required in production",
    )  # fmt: skip
    data_dir: Path = _setting(
        "DATA_DIR", str(ROOT / "data"), "where SQLite and the development secret live", Path,
        shown="`data` in Weir's folder, on Lambda `/tmp/weir`",
    )  # fmt: skip
    database_url: str = _setting(
        "DATABASE_URL", "", "PostgreSQL or SQLite; `postgres://` is accepted", database_url.parse,
        secret=True, shown="SQLite in `DATA_DIR`",
    )  # fmt: skip
    database_password: str = _setting(
        "DATABASE_PASSWORD", "", "takes the place of the password in `DATABASE_URL`, for databases "
        "whose password is kept by itself", secret=True, shown="none",
    )  # fmt: skip
    allow_ephemeral_sqlite: bool = _setting(
        "ALLOW_EPHEMERAL_SQLITE", "false",
        "on a detected platform: accept SQLite, which every deploy there erases", parse.flag,
    )  # fmt: skip
    redis_url: str = _setting(
        "REDIS_URL", "", "shared cache and limits; without it, each process has its own",
        parse.url("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster",
             "rediss+cluster"), secret=True, shown="none",
    )  # fmt: skip
    web_concurrency: int | None = _setting(
        "WEB_CONCURRENCY", "", "worker processes; more than one needs Redis",
        lambda text: parse.integer(1, 256)(text) if text else None,
        shown="1 without Redis, else the CPUs the container may use, bounded by its memory",
    )  # fmt: skip
    openai_api_key: str = _setting(
        "OPENAI_API_KEY", "", "key for OpenAI or an OpenAI-compatible server", parse.api_key,
        secret=True, shown="none",
    )  # fmt: skip
    openai_base_url: BaseURL = _setting(
        "OPENAI_BASE_URL", "", "another server of OpenAI's protocol; alone it is enough",
        parse.provider_url("openai"), shown="none",
    )  # fmt: skip
    openai_prices: str = _setting(
        "OPENAI_PRICES", "", "`maker`: `OPENAI_BASE_URL` leads to OpenAI, through a proxy for one, "
        "so its prices hold", parse.one_of("", "maker"),
        shown="OpenAI's prices at its own hosts, elsewhere those of `MODEL_PRICES` alone",
    )  # fmt: skip
    azure_openai_endpoint: BaseURL = _setting(
        "AZURE_OPENAI_ENDPOINT", "", "Azure OpenAI: the resource's address, with or without "
        "`/openai/v1`",
        parse.provider_url("azure"), shown="none",
    )  # fmt: skip
    azure_openai_api_key: str = _setting(
        "AZURE_OPENAI_API_KEY", "", "Azure OpenAI: its key", parse.api_key, secret=True,
        shown="none",
    )  # fmt: skip
    openai_api_version: str = _setting(
        "OPENAI_API_VERSION", "", "Azure OpenAI: the API version, such as `2024-10-21`",
        shown="what the endpoint's `api-version` says, else none: Azure's v1 API",
    )  # fmt: skip
    azure_openai_prices: str = _setting(
        "AZURE_OPENAI_PRICES", "", "`maker`: the endpoint leads to Azure OpenAI, though its host "
        "is not Azure's", parse.one_of("", "maker"), shown="as `OPENAI_PRICES`",
    )  # fmt: skip
    anthropic_api_key: str = _setting(
        "ANTHROPIC_API_KEY", "", "key for Anthropic", parse.api_key, secret=True, shown="none"
    )
    anthropic_base_url: BaseURL = _setting(
        "ANTHROPIC_BASE_URL", "", "another server of Anthropic's protocol",
        parse.provider_url("anthropic"), shown="none",
    )  # fmt: skip
    anthropic_prices: str = _setting(
        "ANTHROPIC_PRICES", "", "`maker`: `ANTHROPIC_BASE_URL` leads to Anthropic",
        parse.one_of("", "maker"), shown="as `OPENAI_PRICES`",
    )  # fmt: skip
    providers: tuple[ConfiguredProvider, ...] = _setting(
        "PROVIDER_<NAME>_TYPE", "", "with `PROVIDER_<NAME>_BASE_URL`, `PROVIDER_<NAME>_API_KEY` "
        "and `PROVIDER_<NAME>_PRICES`: an additional provider `<name>`; type `openai`, `azure`, "
        "`anthropic` or `langchain:<init_chat_model provider>`", lambda _: (), shown="`openai`",
    )  # fmt: skip
    local_model: bool = _setting(
        "LOCAL_MODEL", "on", "`off`: where no provider is set, `make run` neither installs nor "
        "serves the small local model, and answers offline; never in production", parse.flag,
    )  # fmt: skip
    model_routes: dict[str, tuple[RoutedModel, ...]] = _setting(
        "MODEL_ROUTES", "", "`name=provider/model[*weight]>provider/model;…`: the names that "
        "clients may use, each with an ordered list of targets", parse.routes, shown="none",
    )  # fmt: skip
    default_model: str = _setting(
        "DEFAULT_MODEL", "", "model for requests without one", parse.model_name,
        shown="the route `default`, else the first model that a custom base URL lists, else "
        "`gpt-4o-mini`",
    )  # fmt: skip
    llm_timeout: float = _setting(
        "LLM_TIMEOUT", "60",
        "timeout of one attempt at a provider; of a stream, for its first chunk and each gap",
        parse.number(0.1, 3600),
    )  # fmt: skip
    llm_max_retries: int = _setting(
        "LLM_MAX_RETRIES", "2", "retries of one target before the next one is tried",
        parse.integer(0, 10),
    )  # fmt: skip
    llm_deadline: float = _setting(
        "LLM_DEADLINE", "", "deadline of a whole request; of a stream, of its first chunk",
        lambda text: parse.number(0.1, 3600)(text) if text else 0.0,
        shown="120 (plain calls on Heroku: 25)",
    )  # fmt: skip
    breaker_failures: int = _setting(
        "BREAKER_FAILURES", "5", "consecutive failures of a provider's model within a minute "
        "that open its circuit", parse.integer(1, 1_000_000),
    )  # fmt: skip
    breaker_pause: float = _setting(
        "BREAKER_PAUSE", "15", "how long an open circuit is skipped before one call probes it",
        parse.number(0.1, 3600),
    )  # fmt: skip
    tiers: dict[str, Allowance] = _setting(
        "TIERS", DEFAULT_TIERS, "limits of each tier, in Flask-Limiter's notation, several "
        "comma-separated", parse.tiers,
    )  # fmt: skip
    tier_overrides: dict[str, dict[str, Any]] = _setting(
        "TIER_<NAME>", "", "further limits of each key of a tier: `requests_per_day`, "
        "`tokens_per_minute`, `parallel_requests`, `requests_per_session`, `usd_per_day`, "
        "`usd_per_month`, `usd_per_session`, `models=a|b`, `max_text`, `networks=10.0.0.0/8|…`, "
        "`own_cache`, comma-separated", lambda _: {},
        shown="none",
    )  # fmt: skip
    api_keys: tuple[ConfiguredKey, ...] = _setting(
        "API_KEYS", "", "`name:tier:key,…`, synchronized at start", parse.api_keys, secret=True,
        shown="the demo keys in development",
    )  # fmt: skip
    model_prices: dict[str, PriceEntry] = _setting(
        "MODEL_PRICES", "", "`provider/model: input=0.15, cached_input=0.075, output=0.6, "
        "max_output=16384; …` in USD per million tokens, `*` for any part of a name: adds to the "
        "built-in prices or overrides them; all fields: [Prices](money.md#prices)", parse.prices,
        shown="none",
    )  # fmt: skip
    unpriced_models: str = _setting(
        "UNPRICED_MODELS", "refuse", "whether keys with a budget may use models without a price: "
        "`refuse` or `allow`", parse.one_of("refuse", "allow"),
    )  # fmt: skip
    ledger_retention: int = _setting(
        "LEDGER_RETENTION", "400", "days for which the ledger keeps each call; daily totals are "
        "kept for ever; 0 keeps all", parse.integer(0, 36_500),
    )  # fmt: skip
    model_path: Path | None = _setting(
        "MODEL_PATH", "", "an ONNX file, or a folder of `name/version.onnx`, for `/predict`",
        parse.existing_path, shown="the included model",
    )  # fmt: skip
    log_prompts: bool = _setting(
        "LOG_PROMPTS", "false", "log prompts and answers, and store them with each request; they "
        "may be confidential", parse.flag,
    )  # fmt: skip
    request_log_retention: int = _setting(
        "REQUEST_LOG_RETENTION", "30", "days for which the dashboard lists each request; 0 lists "
        "none", parse.integer(0, 36_500),
    )  # fmt: skip
    alert_webhook_url: str = _setting(
        "ALERT_WEBHOOK_URL", "", "receives alerts when a budget is 50, 80 or 100 % spent (Standard "
        "Webhooks)", parse.url("http", "https"), secret=True, shown="none",
    )  # fmt: skip
    alert_webhook_secret: bytes = _setting(
        "ALERT_WEBHOOK_SECRET", "", "signs these alerts: `whsec_` and the base64 of at least 16 "
        "random bytes", parse.webhook_secret, secret=True, shown="none",
    )  # fmt: skip
    broker_url: str = _setting(
        "BROKER_URL", "", "tells workers (`flask worker`) that a batch has work: `redis://…`, "
        "`amqp://…`, `sqs://…`, `gcpubsub://…` or `azureservicebus://…`: [Batches](batches.md)",
        parse.url("redis", "rediss", "amqp", "amqps", "sqs", "gcpubsub", "azureservicebus"),
        secret=True, shown="`REDIS_URL`, unless that is a cluster or sentinels",
    )  # fmt: skip
    batch_concurrency: int = _setting(
        "BATCH_CONCURRENCY", "32", "how many lines of batches a worker has at a target at once, at "
        "most; serving processes have a quarter of it", parse.integer(1, 1000),
    )  # fmt: skip
    files_url: str = _setting(
        "FILES_URL", "", "where files of batches lie: `file:///folder`, `database://`, "
        "`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`",
        parse.files_url, shown="`DATA_DIR` with SQLite, else the database",
    )  # fmt: skip
    files_max_bytes: int = _setting(
        "FILES_MAX_BYTES", str(200 * 1024 * 1024), "maximum size of a file",
        parse.integer(1024, 2**40),
    )  # fmt: skip
    files_quota_bytes: int = _setting(
        "FILES_QUOTA_BYTES", str(1024 * 1024 * 1024), "how many bytes the files of a key may have",
        parse.integer(1024, 2**50),
    )  # fmt: skip
    files_retention: tuple[int, int] = _setting(
        "FILES_RETENTION", "7,30", "days for which files are kept: uploads, results",
        parse.two_integers(1, 36_500),
    )  # fmt: skip
    jobs_retention: int = _setting(
        "JOBS_RETENTION", "7", "days for which `/jobs/{id}` has a response",
        parse.integer(1, 36_500),
    )  # fmt: skip
    callback_hosts: tuple[str, ...] = _setting(
        "CALLBACK_HOSTS", "", "hosts that `X-Weir-Callback` may name, comma-separated; `*.` before "
        "one stands for its subdomains", parse.host_names, shown="none",
    )  # fmt: skip
    callback_secret: bytes = _setting(
        "CALLBACK_SECRET", "", "signs callbacks (Standard Webhooks): `whsec_` and the base64 of at "
        "least 16 random bytes", parse.webhook_secret, secret=True, shown="none",
    )  # fmt: skip
    cache_ttl: int = _setting(
        "CACHE_TTL", "3600", "how long an answer is cached; 0 turns the cache off",
        parse.integer(0, 31_536_000),
    )  # fmt: skip
    cache_stale_if_error: int = _setting(
        "CACHE_STALE_IF_ERROR", "86400", "maximum age of an answer that is served when every "
        "provider fails; 0 turns this off", parse.integer(0, 31_536_000),
    )  # fmt: skip
    cache_scope: str = _setting(
        "CACHE_SCOPE", "shared", "`shared`: all keys share answers; `key`: each key has its own",
        parse.one_of("shared", "key"),
    )  # fmt: skip
    trusted_proxies: int = _setting(
        "TRUSTED_PROXIES", "", "how many proxies in front add X-Forwarded-For",
        lambda text: parse.integer(0, 16)(text) if text else -1,
        shown="1 on Heroku, Render, Railway, Cloud Run, Container Apps and Lambda, else 0",
    )  # fmt: skip
    prompt_denylist: tuple[re.Pattern[str], ...] = _setting(
        "PROMPT_DENYLIST", DEFAULT_DENYLIST, "case-insensitive regular expressions, one per line, "
        "refused in native prompts; empty turns it off", parse.patterns,
        shown="`<script\\b`, `javascript:`, `data:[\\w/+.-]+[;,]`",
    )  # fmt: skip
    stats_access: str = _setting(
        "STATS_ACCESS", "public", "who may read `/stats`: `public`, `key` or `admin`",
        parse.one_of("public", "key", "admin"),
    )  # fmt: skip
    metrics_token: str = _setting(
        "METRICS_TOKEN", "", "bearer token for `/metrics` in production; at least 16 characters",
        secret=True, shown="none: `/metrics` is closed",
    )  # fmt: skip
    otlp_endpoint: str = _setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "", "collector for traces (OTLP over HTTP), such as "
        "`http://localhost:4318`; OpenTelemetry's other variables (`OTEL_SERVICE_NAME`, "
        "`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, …) apply too",
        parse.url("http", "https"), shown="none: no tracing",
    )  # fmt: skip
    allowed_origins: tuple[str, ...] = _setting(
        "ALLOWED_ORIGINS", "", "origins for CORS, comma-separated",
        lambda text: tuple(filter(None, (part.strip() for part in text.split(",")))),
        shown="`*` in development, none in production",
    )  # fmt: skip
    max_body_bytes: int = _setting(
        "MAX_BODY_BYTES",
        str(32 * 1024 * 1024),
        "maximum size of a body",
        parse.integer(1024, 2**31),
    )
    max_body_bytes_in_flight: int = _setting(
        "MAX_BODY_BYTES_IN_FLIGHT", str(256 * 1024 * 1024), "how many bytes the bodies of all "
        "running requests of a worker may have, those above 64 KiB; a key may have a quarter",
        parse.integer(1024 * 1024, 2**40),
    )  # fmt: skip
    body_timeout: float = _setting(
        "BODY_TIMEOUT", "30", "how long a request's line and headers may take from their first "
        "byte, and then its body, that 1 s more for each 16 KiB",
        parse.number(0.1, 3600),
    )  # fmt: skip
    send_timeout: float = _setting(
        "SEND_TIMEOUT", "60", "how long a client may take nothing of its answer, which then ends",
        parse.number(0.1, 3600),
    )  # fmt: skip
    max_unread_answer_bytes: int = _setting(
        "MAX_UNREAD_ANSWER_BYTES", str(256 * 1024 * 1024), "how many bytes the answers that their "
        "clients have not taken may have in a worker, those above 64 KiB; a key or address may "
        "have a quarter", parse.integer(1024 * 1024, 2**40),
    )  # fmt: skip
    max_connections_per_address: int = _setting(
        "MAX_CONNECTIONS_PER_ADDRESS", "2000", "how many connections a worker accepts from an IPv4 "
        "address or an IPv6 /64; unused where `TRUSTED_PROXIES` is above 0, as they are the "
        "proxies'; 0 turns it off", parse.integer(0, 1_000_000),
    )  # fmt: skip
    stream_headers_after: float = _setting(
        "STREAM_HEADERS_AFTER", "10", "how long a stream's headers wait for its first chunk",
        parse.number(0, 60),
    )  # fmt: skip
    shutdown_grace: float = _setting(
        "SHUTDOWN_GRACE", "25", "after SIGTERM, how long running requests may take to finish",
        parse.number(1, 3600),
    )  # fmt: skip
    log_level: str = _setting(
        "LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`",
        parse.one_of("debug", "info", "warning", "error"),
    )  # fmt: skip
    log_sample: float = _setting(
        "LOG_SAMPLE", "1", "the share of successful requests that are logged, from 0 to 1; failed "
        "ones are always logged", parse.number(0, 1),
    )  # fmt: skip
    log_redact: tuple[re.Pattern[str], ...] = _setting(
        "LOG_REDACT", "", "case-insensitive regular expressions, one per line: matches become "
        "`[redacted]`, in the log and in stored prompts and answers", parse.patterns,
        shown="none",
    )  # fmt: skip

    secrets_refresh: float = _setting(
        "SECRETS_REFRESH", "300", "how often secrets that settings only refer to (`aws-sm://…`, "
        "`gcp-sm://…`, `azure-kv://…`, `file:///…`) are read again; 0 turns it off: "
        "[Secrets](deploying/secrets.md)", parse.number(0, 86_400),
    )  # fmt: skip

    platform: str | None = None
    on_kubernetes: bool = False
    secret_references: Mapping[str, Reference] = field(default_factory=dict)
    """By variable, where its value was read."""
    secret_values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def production(self) -> bool:
        return self.app_env == "production"

    @property
    def plain_deadline(self) -> float:
        """The deadline of a plain call. Heroku's router gives up at 30 s without a byte."""
        return self.llm_deadline or (25.0 if self.platform == "heroku" else 120.0)

    @property
    def stream_deadline(self) -> float:
        return self.llm_deadline or 120.0

    @property
    def broker(self) -> str:
        """The URL of the broker; empty where there is none."""
        plain_redis = self.redis_url.startswith(("redis://", "rediss://"))
        return self.broker_url or (self.redis_url if plain_redis else "")

    @property
    def has_provider(self) -> bool:
        return bool(self.providers)

    @property
    def wants_local_model(self) -> bool:
        """Whether the small local model is to answer: in development, where nothing else does."""
        elsewhere = self.production or self.platform or self.on_kubernetes
        return self.local_model and not (elsewhere or self.providers or self.model_routes)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that must not appear in a log line."""
        urls = (self.database_url, self.redis_url, self.broker_url, self.alert_webhook_url)
        written = [urlsplit(url).password or "" for url in urls]
        fields = [pair.partition("=") for url in urls for pair in urlsplit(url).query.split("&")]
        written += [value for name, _, value in fields if unquote(name) in PASSWORD_FIELDS]
        passwords = [*written, *map(unquote, written), *map(unquote_plus, written)]
        provider_keys = [provider.api_key for provider in self.providers]
        passwords += (secret for provider in self.providers for secret in provider.address.secrets)
        api_keys = [key.secret for key in self.api_keys]
        own = (self.secret_key, self.admin_password, self.metrics_token)
        read = self.secret_values.values()
        return tuple(filter(None, (*own, *passwords, *provider_keys, *api_keys, *read)))


def environment() -> Mapping[str, str]:
    """All environment variables, to detect misspelt ones."""
    return os.environ


def table() -> list[Field[Any]]:
    """The declared settings in order, for the documentation."""
    return [declared for declared in fields(Settings) if "variable" in declared.metadata]


def load(
    environ: Mapping[str, str] | None = None,
    *,
    read: Callable[[Iterable[Reference]], Found] = secrets_managers.read_at_start,
) -> Settings:
    """Read, complete and check the settings. `read` gets what they refer to.

    Raises SettingsError with one message that lists all problems.
    """
    environment = os.environ if environ is None else environ
    references, problems = _references(environment)
    found = {} if problems else read(references.values())
    read_values: dict[str, str] = {}
    for variable, reference in references.items():
        value = found.get(reference, "")
        if isinstance(value, SecretError):
            problems.append(f"{variable}: {reference} {value}")
        else:
            read_values[variable] = value
    if problems:
        raise SettingsError(*problems)
    try:
        return _parsed({**environment, **read_values}, references, read_values)
    except SettingsError as error:
        raise SettingsError(
            *(_with_reference(problem, references) for problem in error.problems)
        ) from None


def _with_reference(problem: str, references: Mapping[str, Reference]) -> str:
    """A problem, and where the value that has it was read."""
    reference = references.get(re.split(r"[ :]", problem, maxsplit=1)[0])
    return f"{problem} (it is {reference})" if reference else problem


def load_in_master() -> Settings:
    """load() for Gunicorn's master: its workers inherit the secrets that it has read.

    It reads them again when it is reloaded; what cannot be used then leaves the last ones in use.
    """
    known = dict(secrets_managers.inherited())
    try:
        settings = load(read=secrets_managers.read_in_child)
    except SettingsError as error:
        if not known:
            raise
        log.warning("The last secrets stay in use: %s", "; ".join(error.problems))
        return load()
    references = settings.secret_references
    secrets_managers.inherit(
        {references[variable]: value for variable, value in settings.secret_values.items()}
    )
    return settings


def with_secrets(settings: Settings, values: Mapping[str, str]) -> Settings:
    """The settings with other values of secrets, by variable. Raises SettingsError."""
    return _parsed({**os.environ, **values}, settings.secret_references, values)


def _references(environment: Mapping[str, str]) -> tuple[dict[str, Reference], list[str]]:
    """By variable, the references that settings hold, and the problems found."""
    secret = {field.metadata["variable"]: field.metadata["secret"] for field in table()}
    references: dict[str, Reference] = {}
    problems = []
    for variable, text in environment.items():
        of_provider = PROVIDER_VARIABLE.fullmatch(variable)
        if of_provider or TIER_VARIABLE.fullmatch(variable):
            secret[variable] = bool(of_provider and of_provider[2] == "API_KEY")
        if variable not in secret or variable in NEVER_REFERENCES:
            continue
        try:
            reference = parse_secret(text)
        except ValueError as error:
            problems.append(f"{variable} {error}")
            continue
        if reference and not secret[variable]:
            problems.append(f"{variable} is no secret: only secrets may be references")
        elif reference:
            references[variable] = reference
    return references, problems


def _parsed(
    environment: Mapping[str, str],
    references: Mapping[str, Reference],
    read_values: Mapping[str, str],
) -> Settings:
    values: dict[str, Any] = {
        "platform": platforms.platform_of(environment),
        "on_kubernetes": bool(environment.get("KUBERNETES_SERVICE_HOST")),
        "secret_references": references,
        "secret_values": read_values,
    }
    problems: list[str] = []
    for declared in table():
        variable = declared.metadata["variable"]
        try:
            text = environment.get(variable, "")
            turned_off = variable == "PROMPT_DENYLIST" and variable in environment
            if not text.strip() and not turned_off:
                # Empty means not set, as in compose files and web forms.
                text = declared.metadata["default"]
            values[declared.name] = declared.metadata["parse"](text)
        except ValueError as error:
            problems.append(f"{variable} {error}")
    further, wrong = named_settings.further_providers(environment)
    tiers = values.get("tiers", {})
    values["tier_overrides"], wrong_tiers = named_settings.tier_overrides(environment, tiers)
    problems += wrong + wrong_tiers
    if problems:
        raise SettingsError(*problems)
    _complete(values, environment)
    values["providers"] = (*named_settings.built_in_providers(values), *further)
    values["tiers"] = {
        name: tier.overridden(values["tier_overrides"].get(name, {}))
        for name, tier in values["tiers"].items()
    }
    problems = [*settings_checks.weaknesses(values), *settings_checks.unwritable(values)]
    if problems:
        raise SettingsError(*problems)
    return Settings(**values)


def _complete(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Fill in the defaults that depend on where Weir runs."""
    hosted = values["platform"] or values["on_kubernetes"]
    values["app_env"] = values["app_env"] or ("production" if hosted else "development")
    development = values["app_env"] == "development"
    values["host"] = values["host"] or ("127.0.0.1" if development else "0.0.0.0")  # noqa: S104
    if values["trusted_proxies"] < 0:
        values["trusted_proxies"] = 1 if values["platform"] in platforms.BEHIND_A_PROXY else 0
    if values["platform"] == "lambda" and not environment.get("DATA_DIR", "").strip():
        values["data_dir"] = platforms.LAMBDA_DATA_DIR
    if not values["database_url"]:
        values["database_url"] = f"sqlite:///{values['data_dir'].resolve() / 'weir.db'}"
    if values["database_password"]:
        try:
            values["database_url"] = database_url.with_password(
                values["database_url"], values["database_password"]
            )
        except ValueError as error:
            raise SettingsError(f"DATABASE_PASSWORD {error}") from None
    if development:
        values["secret_key"] = values["secret_key"] or _stored_secret(values["data_dir"])
        if "API_KEYS" not in environment:
            demo_keys = parse.api_keys(DEMO_KEYS)
            values["api_keys"] = tuple(key for key in demo_keys if key.tier in values["tiers"])
        values["allowed_origins"] = values["allowed_origins"] or ("*",)


def _stored_secret(data_dir: Path) -> str:
    """The development secret, created at the first start. Concurrent starts agree on one."""
    path = data_dir / "secret_key"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = data_dir / f".secret_key.{os.getpid()}"
        if not path.exists():
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(32))
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"DATA_DIR must be a writable folder: {error}") from None
