"""Timeouts, retries, cache, Redis, credentials: LiteLLM's settings for the whole proxy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from webapp.imports.document import Document, Path
from webapp.imports.env_file import REFERENCE, EnvFile, literal
from webapp.imports.litellm.advice import ADVICE, ONE_TIMEOUT, UNKNOWN, note_rest
from webapp.imports.litellm.deployments import Deployments
from webapp.imports.litellm.routes import SHUFFLE
from webapp.imports.litellm.values import listed, mapping, number, template, variable
from webapp.imports.report import Report

MASTER_KEY = "litellm-master"
DEFAULT_DEADLINE = 120
KEY_IN_PRODUCTION = re.compile(r"[A-Za-z0-9_-]{16,}")
EXACT_CACHES = {"", "local", "redis"}
HANDLED = {
    "litellm_settings": {
        "request_timeout", "num_retries", "fallbacks", "default_fallbacks", "cache",
        "cache_params", "allowed_fails", "cooldown_time",
    },
    "router_settings": {
        "timeout", "num_retries", "fallbacks", "default_fallbacks", "model_group_alias",
        "allowed_fails", "cooldown_time", "disable_cooldowns", "redis_host", "redis_port",
        "redis_password", "redis_url", "redis_db", "cache_responses",
    },
    "general_settings": {
        "master_key", "database_url", "completion_model", "coordination_redis",
        "store_model_in_db",
    },
}  # fmt: skip
SECTIONS = {*HANDLED, "model_list", "environment_variables", "credential_list"}
# What programs read by themselves, whoever starts them.
READ_BY_LIBRARIES = re.compile(r"(AWS|GOOGLE|AZURE|OTEL)_\w+|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE")


def read(document: Document, report: Report, deployments: Deployments, env: EnvFile) -> None:
    """Write the settings for the whole proxy, and report what has no counterpart."""
    router = document.section("router_settings")
    litellm = document.section("litellm_settings")
    general = document.section("general_settings")
    _timeout(report, env, router, litellm, deployments)
    _retries(report, env, router, litellm)
    _breakers(report, env, router, litellm)
    _redis(document, report, env)
    _cache(report, env, router, litellm)
    _region(report, env, deployments)
    _master_key(report, env, general)
    if general.get("database_url"):
        report.todo(
            ("general_settings", "database_url"),
            "It is LiteLLM's database. Weir needs one of "
            "its own: create an empty one and set DATABASE_URL.",
        )
    if general.get("store_model_in_db"):
        report.todo(
            ("general_settings", "store_model_in_db"),
            "Models that were added in LiteLLM's UI "
            "are in its database, not in this file. GET /model/info lists them.",
        )
    if model := general.get("completion_model"):
        env.put("DEFAULT_MODEL", template(model))
    _note_rest(document, report)


def environment(document: Document, report: Report, env: EnvFile) -> None:
    """Put the variables that the file sets, and that something reads, before the settings."""
    given = document.section("environment_variables")
    used = {name for value in env.templates.values() for name in REFERENCE.findall(value)}
    kept: dict[str, str] = {}
    for name, value in given.items():
        path: Path = ("environment_variables", str(name))
        if value in (None, ""):
            continue
        if name in used or READ_BY_LIBRARIES.fullmatch(str(name)):
            kept[str(name)] = template(value)
        elif not str(name).startswith("REDIS_"):
            report.missing(path, "Nothing in Weir reads this variable.")
    settings = dict(env.templates)
    env.templates.clear()
    env.templates.update({**kept, **settings})


def _timeout(
    report: Report,
    env: EnvFile,
    router: Mapping[str, Any],
    litellm: Mapping[str, Any],
    deployments: Deployments,
) -> None:
    path, timeout = ("router_settings", "timeout"), number(router.get("timeout"))
    if timeout is None:
        path, timeout = (
            ("litellm_settings", "request_timeout"),
            number(litellm.get("request_timeout")),
        )
    if timeout is None:
        own = {number(one.params.get("timeout")) for one in deployments.served}
        timeout = own.pop() if len(own) == 1 else None
    for one in deployments.served:
        if (given := number(one.params.get("timeout"))) is not None and given != timeout:
            report.missing((*one.path, "litellm_params", "timeout"), ONE_TIMEOUT)
    if not timeout:
        return
    seconds = min(max(float(timeout), 0.1), 3600.0)
    if seconds != timeout:
        report.differs(path, f"LLM_TIMEOUT is 0.1 to 3600 s: it becomes {seconds:g}.")
    env.put("LLM_TIMEOUT", f"{seconds:g}", "Seconds for one attempt, and for a whole request.")
    if seconds > DEFAULT_DEADLINE:
        env.put("LLM_DEADLINE", f"{seconds:g}")


def _retries(
    report: Report, env: EnvFile, router: Mapping[str, Any], litellm: Mapping[str, Any]
) -> None:
    for name, section in (("router_settings", router), ("litellm_settings", litellm)):
        if (retries := number(section.get("num_retries"))) is not None:
            kept = min(max(int(retries), 0), 10)
            if kept != retries:
                report.differs(
                    (name, "num_retries"), f"LLM_MAX_RETRIES is 0 to 10: it becomes {kept}."
                )
            env.put("LLM_MAX_RETRIES", str(kept))
            return


def _breakers(
    report: Report, env: EnvFile, router: Mapping[str, Any], litellm: Mapping[str, Any]
) -> None:
    for name, section in (("router_settings", router), ("litellm_settings", litellm)):
        if (fails := number(section.get("allowed_fails"))) is not None and fails >= 0:
            env.put("BREAKER_FAILURES", str(int(fails) + 1))
            report.differs(
                (name, "allowed_fails"),
                "A circuit opens after as many failures in a row "
                "within a minute (BREAKER_FAILURES); a success between them closes it.",
            )
        if pause := number(section.get("cooldown_time")):
            env.put("BREAKER_PAUSE", f"{min(max(float(pause), 0.1), 3600.0):g}")
    if router.get("disable_cooldowns"):
        env.put("BREAKER_FAILURES", "1000000", "Circuits never open, as cooldowns are disabled.")


def _redis(document: Document, report: Report, env: EnvFile) -> None:
    router = document.section("router_settings")
    cache = mapping(document.section("litellm_settings").get("cache_params"))
    coordination = mapping(document.section("general_settings").get("coordination_redis"))
    as_cache = {
        name.removeprefix("redis_"): value
        for name, value in router.items()
        if name.startswith("redis_")
    }
    wanted: list[tuple[Path, Mapping[str, Any]]] = [
        (("router_settings", "redis_host"), as_cache),
        (("litellm_settings", "cache_params"), cache),
        (("general_settings", "coordination_redis"), coordination),
    ]
    for path, given in wanted:
        if url := _redis_url(given):
            env.put(
                "REDIS_URL",
                url,
                "Shared cache, limits and circuits. Cached answers of LiteLLM are not read.",
            )
            if given.get("password"):
                report.todo(
                    path,
                    "The password of Redis is part of a URL: characters other than "
                    "letters, digits and -_.~ must be percent-encoded.",
                )
            return
    if cache.get("type") == "redis":
        report.todo(
            ("litellm_settings", "cache_params", "type"),
            "LiteLLM reads REDIS_HOST and others "
            "from its environment. Set REDIS_URL=redis://:password@host:6379/0.",
        )


def _redis_url(given: Mapping[str, Any]) -> str:
    """The template of a URL of Redis; "" where there is no host."""
    if given.get("url"):
        return template(given["url"])
    scheme = "rediss" if given.get("ssl") else "redis"
    password = template(given.get("password"))
    credentials = f"{template(given.get('username'))}:{password}@" if password else ""
    if nodes := listed(given.get("redis_startup_nodes")):
        node = mapping(nodes[0])
        return f"{scheme}+cluster://{credentials}{template(node.get('host'))}:{template(node.get('port'))}"
    if sentinels := listed(given.get("sentinel_nodes")):
        hosts = ",".join(":".join(map(template, listed(pair))) for pair in sentinels)
        return f"{scheme}+sentinel://{credentials}{hosts}/{template(given.get('service_name'))}/0"
    if not given.get("host"):
        return ""
    host, port = template(given["host"]), template(given.get("port")) or "6379"
    return f"{scheme}://{credentials}{host}:{port}/{template(given.get('db')) or '0'}"


def _cache(
    report: Report, env: EnvFile, router: Mapping[str, Any], litellm: Mapping[str, Any]
) -> None:
    parameters = mapping(litellm.get("cache_params"))
    cached = bool(litellm.get("cache") or router.get("cache_responses"))
    kind = str(parameters.get("type") or "")
    if not cached:
        env.put(
            "CACHE_TTL", "0", "LiteLLM cached nothing. Without this line, Weir caches for an hour."
        )
        return
    if kind not in EXACT_CACHES:
        report.missing(
            ("litellm_settings", "cache_params", "type"),
            ADVICE["cache_params"] + " No semantic cache, and none in S3, GCS, Qdrant or on disk.",
        )
    if parameters.get("mode") == "default_off":
        env.put("CACHE_TTL", "0", "LiteLLM cached only what asked for it. Weir has no such mode.")
        report.missing(
            ("litellm_settings", "cache_params", "mode"),
            "Weir caches every request, or "
            "none. A request can leave the cache out (Cache-Control: no-store).",
        )
    elif (ttl := number(parameters.get("ttl"))) is not None:
        env.put(
            "CACHE_TTL",
            str(min(max(int(ttl), 0), 31_536_000)),
            "Seconds for which answers are cached.",
        )
    known = {"type", "mode", "ttl", "host", "port", "password", "username", "url", "db", "ssl",
             "redis_startup_nodes", "sentinel_nodes", "service_name", "namespace"}  # fmt: skip
    note_rest(report, ("litellm_settings", "cache_params"), parameters, known)


def _region(report: Report, env: EnvFile, deployments: Deployments) -> None:
    regions = {
        template(one.params["aws_region_name"])
        for one in deployments.served
        if one.params.get("aws_region_name")
    }
    if len(regions) == 1:
        env.put("AWS_DEFAULT_REGION", regions.pop(), "The region of Bedrock.")
    elif regions:
        report.missing(
            (),
            "Several regions of Bedrock (aws_region_name): a Weir calls one, that of "
            "AWS_DEFAULT_REGION. For more, use inference profiles (us., eu., global.).",
        )


def _master_key(report: Report, env: EnvFile, general: Mapping[str, Any]) -> None:
    path, key = ("general_settings", "master_key"), general.get("master_key")
    if not key:
        report.differs(
            path if "master_key" in general else (),
            "Without a master_key, LiteLLM may "
            "let anybody in. Weir asks every client for a key: flask keys create.",
        )
        return
    if variable(key) or KEY_IN_PRODUCTION.fullmatch(str(key)):
        env.put(
            "API_KEYS",
            literal(f"{MASTER_KEY}:enterprise:") + template(key),
            "Clients that use LiteLLM's master key keep it, as an ordinary key.",
        )
        report.differs(
            path,
            f"It becomes the key {MASTER_KEY} of tier enterprise, without the rights "
            "of an administrator. Those sign in with ADMIN_PASSWORD.",
        )
    else:
        report.todo(
            path,
            "It is too short or has characters that keys in API_KEYS may not have. Give "
            "the clients that use it a key of their own: flask keys create.",
        )


def _note_rest(document: Document, report: Report) -> None:
    for name, handled in HANDLED.items():
        section = document.section(name)
        if section.get("routing_strategy") == SHUFFLE:
            handled = handled | {"routing_strategy"}
        note_rest(report, (name,), section, handled)
    for name in document.data:
        if name not in SECTIONS:
            report.missing((str(name),), ADVICE.get(str(name), UNKNOWN))
