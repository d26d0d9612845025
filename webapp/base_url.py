"""The base URL of a provider: what may be written in a setting, and what is made of it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
OPENAI_HOST = "api.openai.com"
EXAMPLE = "must be a URL such as https://host:8443/v1"
# What may follow a base URL of each protocol, where a whole endpoint was written.
OPENAI_ENDPOINT = re.compile(
    r"/(?:(?:chat/)?completions|embeddings|responses|(?<=/v1/)models(?:/.*)?)$"
)
ANTHROPIC_ENDPOINT = re.compile(r"(?:/v1)+(?:/(?:messages(?:/count_tokens)?|models|complete))?$")
AZURE_ENDPOINT = re.compile(r"(.*?)(?:/openai(?:/(?:v1|deployments)(?:/.*)?)?|/v1)?")
REPEATED = re.compile(r"((?:/openai)?/v1)\1+$")


@dataclass(frozen=True, slots=True)
class BaseURL:
    """A base URL without user and password, so that it can be shown; "" is the maker's own.

    Of Azure, `url` is the resource, and `api_version` what the query named.
    """

    url: str = ""
    query: str = field(default="", repr=False)
    user_info: str = field(default="", repr=False)
    """User and password as they were written, percent-encoded."""
    api_version: str = ""

    @property
    def authorization(self) -> str:
        """The Authorization header of user and password. It replaces that of an API key."""
        if not self.user_info:
            return ""
        user, _, password = self.user_info.partition(":")
        plain = f"{unquote(user)}:{unquote(password)}".encode()
        return "Basic " + base64.b64encode(plain).decode()

    @property
    def complete(self) -> str:
        """The URL with user, password and query, for clients that read these themselves."""
        scheme, separator, rest = self.url.partition("://")
        user = f"{self.user_info}@" if self.user_info else ""
        query = f"?{self.query}" if self.query else ""
        return f"{scheme}{separator}{user}{rest}{query}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in a log line."""
        user, _, password = self.user_info.partition(":")
        secret = password or user  # a user alone is a token
        return (secret, unquote(secret), self.authorization.removeprefix("Basic "))


def parse(text: str, provider_type: str) -> BaseURL:
    """The base URL of a provider of this type. Raises ValueError, which quotes nothing of it."""
    text = text.strip()
    if not text:
        return BaseURL()
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"{EXAMPLE}, without spaces; other characters than ASCII are encoded")
    if not re.match(r"https?://", text, re.IGNORECASE):
        raise ValueError("must start with http:// or https://")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if not host or port == 0 or parts.fragment or not re.fullmatch(r"[\w.:%~-]+", host):
        raise ValueError(
            f"{EXAMPLE}: a host, a port from 1 to 65535 if any, no #; in user:password@, the "
            "characters / ? # [ ] @ are percent-encoded"
        )
    # The scope of a link-local address is encoded in a URL (RFC 6874).
    netloc = f"[{host.replace('%25', '%')}]" if ":" in host else host
    if port not in {None, DEFAULT_PORTS[parts.scheme]}:
        netloc += f":{port}"
    path = re.sub(r"//+", "/", parts.path).rstrip("/")
    query, api_version = parts.query, ""
    if provider_type == "openai":
        path = REPEATED.sub(r"\1", OPENAI_ENDPOINT.sub("", path))
        path = path or ("/v1" if host == OPENAI_HOST else "")
    elif provider_type == "anthropic":
        path = ANTHROPIC_ENDPOINT.sub("", path)
    elif provider_type == "azure":
        found = AZURE_ENDPOINT.fullmatch(path)
        path = found[1] if found else path
        pairs = dict(parse_qsl(query, keep_blank_values=True))
        api_version = pairs.pop("api-version", "")
        query = urlencode(pairs, quote_via=quote)
    user_info = parts.netloc.rpartition("@")[0]
    return BaseURL(f"{parts.scheme}://{netloc}{path}", query, user_info, api_version)
