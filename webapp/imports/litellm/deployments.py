"""The deployments of `model_list`: which target of Weir's each is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from webapp.imports.document import Document, Path
from webapp.imports.litellm.advice import note_rest
from webapp.imports.litellm.makers import MAKERS, PACKAGES, Maker, split
from webapp.imports.litellm.values import listed, mapping, variable
from webapp.imports.report import Report
from webapp.model_names import NAME

CREDENTIALS = {"api_key", "api_base", "base_url", "api_version"}
# What is read of a deployment, here and by the readers of routes, prices and settings.
KNOWN_PARAMS = CREDENTIALS | {
    "model", "custom_llm_provider", "litellm_credential_name", "weight", "order", "aws_region_name",
    "timeout",
}  # fmt: skip
KNOWN_INFO = {
    "id", "mode", "base_model", "access_groups", "max_tokens", "max_input_tokens",
    "max_output_tokens", "version", "description", "db_model",
}  # fmt: skip
# What LiteLLM itself says of a model, in the answer of its GET /model/info.
FACTS = (
    "supports_", "supported_", "litellm_provider", "key", "max_", "output_vector_size", "db_",
    "search_context_cost", "rpm", "tpm", "created_by", "updated_by", "team_", "direct_access",
    "deprecation_date", "source", "metadata", "tool_use_system_prompt_tokens", "access_via_team",
)  # fmt: skip
SERVED_MODES = {"", "chat", "completion", "responses", "embedding", "batch"}
EMBEDDING = re.compile(r"embed|bge-|e5-|minilm", re.IGNORECASE)
UNSERVED = re.compile(
    r"dall-e|gpt-image|imagen|stable-diffusion|stability\.|whisper|transcribe|\btts|rerank|"
    r"moderation|realtime|\bsora|\bveo",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Deployment:
    """One entry of `model_list` that Weir can serve."""

    path: Path
    group: str
    """`model_name`: what clients ask for."""
    maker: Maker
    model: str
    params: dict[str, Any]
    info: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.info.get("id", ""))


@dataclass
class Deployments:
    """All deployments in order, and the groups of which none is served."""

    served: list[Deployment] = field(default_factory=list)
    unserved: dict[str, Path] = field(default_factory=dict)

    def groups(self) -> dict[str, list[Deployment]]:
        groups: dict[str, list[Deployment]] = {}
        for deployment in self.served:
            groups.setdefault(deployment.group, []).append(deployment)
        return groups


def read(document: Document, report: Report) -> Deployments:
    """The deployments. What cannot be served is reported."""
    credentials = dict(_credentials(document))
    found = Deployments()
    for index, entry in enumerate(listed(document.data.get("model_list"))):
        path: Path = ("model_list", index)
        params, info = (
            mapping(mapping(entry).get("litellm_params")),
            mapping(entry).get("model_info"),
        )
        group = str(mapping(entry).get("model_name") or "").strip()
        deployment = _read_one(path, group, params, mapping(info), credentials, report)
        if deployment:
            found.served.append(deployment)
        elif group:
            found.unserved[group] = path
    for deployment in found.served:
        found.unserved.pop(deployment.group, None)
    return found


def _read_one(
    path: Path,
    group: str,
    params: dict[str, Any],
    info: dict[str, Any],
    credentials: dict[str, dict[str, Any]],
    report: Report,
) -> Deployment | None:
    below: Path = (*path, "litellm_params")
    named = str(params.get("litellm_credential_name") or "")
    if named and named not in credentials:
        report.todo(
            (*below, "litellm_credential_name"),
            "These credentials are not in the file: "
            "they are in LiteLLM's database. Set the provider's base URL and key.",
        )
    params = {**credentials.get(named, {}), **params}
    full_name = params.get("model")
    if not group or not isinstance(full_name, str) or not full_name.strip():
        report.missing(path, "It has no model_name, or no litellm_params.model. It is left out.")
        return None
    if variable(full_name):
        report.todo(
            (*below, "model"),
            "The model is a reference to a variable. Write its name into "
            "the file, and import it again.",
        )
        return None
    prefix, model = split(full_name.strip(), str(params.get("custom_llm_provider") or ""))
    if full_name == "*":
        prefix, model = "openai", "*"
    mode = str(info.get("mode") or "")
    if mode not in SERVED_MODES or (not mode and UNSERVED.search(model)):
        report.missing(
            (*below, "model"),
            "Weir serves chat, responses, messages and embeddings; no "
            "images, audio, reranking, moderation or realtime. Its group is left out.",
        )
        return None
    if prefix not in MAKERS:
        report.missing(
            (*below, "model"),
            f"Weir does not know the provider of {full_name!r}. If it "
            "speaks OpenAI's protocol: PROVIDER_<NAME>_BASE_URL and a route.",
        )
        return None
    maker = MAKERS[prefix]
    if not re.fullmatch(NAME, model) or not re.fullmatch(NAME, group):
        report.missing(path, "Names of models are 1 to 256 visible ASCII characters in Weir.")
        return None
    if maker.type in PACKAGES:
        if mode == "embedding" or EMBEDDING.search(model):
            report.missing(
                (*below, "model"),
                f"Weir calls {maker.type} for chat only, not for "
                "embeddings. Its group is left out.",
            )
            return None
        report.todo(
            (*below, "model"),
            f"Type {maker.type} needs a package: pip install {PACKAGES[maker.type]}",
        )
    prices = {key for key in params | info if "cost_per" in key or "_token_cost" in key}
    seconds = {key for key in prices if key.endswith("_per_second")}
    known = KNOWN_PARAMS | (prices - seconds)
    note_rest(
        report,
        below,
        {k: v for k, v in params.items() if k not in credentials.get(named, {})},
        known,
    )
    about = {
        key: value
        for key, value in info.items()
        if not key.startswith(FACTS) and not key.endswith("_at")
    }
    note_rest(report, (*path, "model_info"), about, KNOWN_INFO | (prices - seconds))
    return Deployment(path, group, maker, model, params, info)


def _credentials(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of `credential_list` by name."""
    for entry in listed(document.data.get("credential_list")):
        name = str(mapping(entry).get("credential_name") or "")
        yield name, mapping(mapping(entry).get("credential_values"))
