"""Whose prices a provider has: those of the maker of its models, or none."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from webapp.setting_parsers import ConfiguredProvider

# The sections of the price table for each maker's own hosts. Hosts below these are their regions.
OPENAI, AZURE = ("openai",), ("azure", "openai")
HOSTS = {
    "api.openai.com": OPENAI,
    "api.anthropic.com": ("anthropic",),
    "generativelanguage.googleapis.com": ("google_genai",),
    "api.mistral.ai": ("mistral",),
    "api.groq.com": ("groq",),
    "api.deepseek.com": ("deepseek",),
    "api.x.ai": ("xai",),
}
AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
# LangChain's names that differ from those of the table.
LANGCHAIN_SECTIONS = {"mistralai": "mistral", "azure_openai": "azure"}
SECTIONS = frozenset(section for sections in (*HOSTS.values(), AZURE) for section in sections)


@dataclass(frozen=True, slots=True)
class Maker:
    """The sections of the price table to look in, the likeliest first.

    `regional`: the calls go to a host of a region. `by_setting`: the settings say who it is.
    """

    sections: tuple[str, ...]
    regional: bool = False
    by_setting: bool = False


def host_of(provider: ConfiguredProvider) -> str:
    return (urlsplit(provider.base_url).hostname or "").lower()


def maker_of(provider: ConfiguredProvider) -> Maker | None:
    """The maker by the host that is called; None for any other server, which sells its own models.

    Without a base URL, that is the maker's own. `PROVIDER_<NAME>_PRICES=maker` says that another
    base URL leads to the maker.
    """
    host = host_of(provider)
    if host.endswith(AZURE_HOSTS):
        return Maker(AZURE)
    for maker_host, sections in HOSTS.items():
        if host == maker_host or host.endswith(f".{maker_host}"):
            return Maker(sections, regional=host != maker_host)
    if host and provider.prices != "maker":
        return None
    return Maker(_sections(provider), by_setting=bool(host))


def _sections(provider: ConfiguredProvider) -> tuple[str, ...]:
    """The sections for a type of provider; one that speaks OpenAI's protocol may be named so."""
    kind = provider.type.removeprefix("langchain:")
    if kind == "openai" and provider.name in SECTIONS:
        kind = provider.name
    section = LANGCHAIN_SECTIONS.get(kind, kind)
    return AZURE if section == "azure" else (section,)
