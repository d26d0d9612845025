"""An administrator's client of a Weir, with a token."""

from __future__ import annotations

from typing import Any

import requests

from tests.support.servers import Weir

PASSWORD = "the administrator's password"
SETTINGS = {"ADMIN_PASSWORD": PASSWORD}


class Administrator:
    """Signed in as `username`. Every request sends the token."""

    def __init__(self, weir: Weir, username: str = "admin", password: str = PASSWORD) -> None:
        self._weir = weir
        body = {"username": username, "password": password}
        answer = weir.post("/token", json=body)
        assert answer.status_code == 200, answer.text
        self.token: str = answer.json()["access_token"]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, *, address: str = "127.0.0.1", **kwargs: Any) -> requests.Response:
        headers = self.headers | {"X-Forwarded-For": address}
        return self._weir.get(path, headers=headers, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        return self._weir.post(path, json=body, headers=self.headers, **kwargs)

    def patch(self, path: str, body: Any) -> requests.Response:
        return self._weir.request("PATCH", path, json=body, headers=self.headers)
