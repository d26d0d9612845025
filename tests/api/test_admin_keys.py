"""/admin/keys as the OpenAPI document describes it."""

from __future__ import annotations

import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.servers import Weir


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(**SETTINGS)


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


def test_every_example_runs_as_it_stands(weir: Weir, admin: Administrator) -> None:
    key_id = admin.post("/admin/keys", {"name": "of the examples"}).json()["id"]
    tried = set()
    for path, operations in weir.get("/openapi.json").json()["paths"].items():
        if not path.startswith("/admin/keys"):
            continue
        for method in operations.keys() & {"post", "patch"}:
            operation = operations[method]
            assert operation["security"] == [{"Bearer": []}]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in body:
                send = admin.post if method == "post" else admin.patch
                answer = send(path.replace("{key_id}", str(key_id)), body["example"])
                assert answer.status_code in {200, 201}, (path, answer.text)
                assert str(answer.status_code) in operation["responses"]
                tried.add(f"{method} {path}")
    assert tried == {
        "post /admin/keys", "patch /admin/keys/{key_id}", "post /admin/keys/{key_id}/rotate",
        "post /admin/keys/{key_id}/budget-increase",
    }  # fmt: skip


def test_an_answer_with_a_secret_is_kept_by_nobody(admin: Administrator) -> None:
    made = admin.post("/admin/keys", {"name": "kept by nobody"})
    rotated = admin.post(f"/admin/keys/{made.json()['id']}/rotate", {})
    for answer in (made, rotated):
        assert answer.json()["secret"].startswith("weir_")
        assert answer.headers["Cache-Control"] == "no-store"
