"""A client of the dashboard that behaves like a browser without JavaScript."""

from __future__ import annotations

import html
import re
from typing import Any

import requests

from tests.support.administrator import PASSWORD
from tests.support.servers import Weir


class Visitor:
    """Stores cookies, and sends forms with the CSRF token of their page."""

    def __init__(self, weir: Weir) -> None:
        self.weir = weir
        self.session = requests.Session()
        self.session.headers["Accept"] = "text/html"

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.session.get(self.weir.url + path, timeout=30, **kwargs)

    def post(self, path: str, *, on: str | None = None, **fields: Any) -> requests.Response:
        """Send the form of `path` (or of the page `on`), and follow redirects."""
        page = self.get(on or path)
        data = {"csrf_token": token_of(page.text), **fields}
        return self.session.post(self.weir.url + path, data=data, timeout=30)

    def sign_in(self, username: str = "admin", password: str = PASSWORD) -> requests.Response:
        return self.post("/dashboard/sign-in", username=username, password=password)

    def ids_of_keys(self) -> set[int]:
        page = self.get("/dashboard/keys")
        assert page.status_code == 200, text_of(page.text)
        return set(map(int, re.findall(r'href="/dashboard/keys/(\d+)"', page.text)))

    def create_key(self, name: str, tier: str = "premium", **fields: str) -> str:
        """The secret of a new key."""
        page = self.post("/dashboard/keys/new", name=name, tier=tier, **fields)
        found = re.search(r'id="secret"><code>(weir_\S+)</code>', page.text)
        assert found, text_of(page.text)
        return found.group(1)


def token_of(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found, page
    return found.group(1)


def text_of(page: str) -> str:
    """The text of a page, without markup."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))
