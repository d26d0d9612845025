"""What providers say of errors is found in every envelope, and missing models by their words."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.errors import (
    ModelNotFound,
    ProviderError,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
)
from webapp.providers.reported_errors import read_error, translate_reported, translate_status

MISSING = [
    'model "gone" not found, try pulling it first',
    "The model `gone` does not exist.",
    "The model `gone` does not exist or you do not have access to it.",
    "The requested model 'org/gone' does not exist",
    "model 'gone' not found, make sure the correct model ID was used",
    "Model not found, inaccessible, and/or not deployed",
    "Model Not Exist",
    "model with id gone was not found",
    "gone is not a valid model ID",
    "Invalid model: gone",
    "Invalid model 'gone'. Permitted models can be found in the documentation",
    "The API deployment for this resource does not exist.",
]
NOT_MISSING = [
    "404 page not found",
    "Not Found",
    "Resource not found",
    "The image that the model was asked about was not found at its address",
    "This model does not support images",
    "The schema of the model's output does not exist",
    "A file was not found",
    "Unknown model parameter: foo",
    "Invalid model output: not JSON",
    "tool 'x' of the model not found",
    "file referenced by the model does not exist",
]


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize("message", MISSING)
def test_a_missing_model_is_recognized(message: str, status: int) -> None:
    for body in ({"error": {"message": message, "code": status}}, {"detail": message}, message):
        error = translate_status(status, body)
        assert type(error) is ModelNotFound
        assert error.message == message


@pytest.mark.parametrize("message", NOT_MISSING)
def test_what_else_is_missing_is_a_refusal(message: str) -> None:
    for status in (400, 404):
        assert type(translate_status(status, {"error": message})) is ProviderRefusedRequest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "a", "code": "b"}, "message": "c"}, "a"),
        ({"error": "a"}, "a"),
        ({"message": "a", "detail": "b"}, "a"),
        ({"detail": [{"loc": ["body", "n"], "msg": "a"}, {"msg": "b"}]}, "n: a; b"),
        ({"message": {"detail": [{"loc": ["body"], "msg": "a"}]}}, "a"),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a"),
        ({"errors": ["a"]}, "a"),
        ([{"error": {"message": "a"}}], "a"),
        ("a", "a"),
        ("<!DOCTYPE html><title>502</title>", ""),
        ({"error": {"message": "a\x00b\r\n\x1b[31mc"}}, "a b [31mc"),
        ({"error": {"message": "x" * 5_000}}, "x" * 4_000),
        ({"error": {"message": None}}, ""),
        ({"error": {"message": {"a": [1]}}}, ""),
        (None, ""), (7, ""), ([], ""), ([7], ""), ({}, ""),
    ],
    ids=str,
)  # fmt: skip
def test_the_message_is_found(body: Any, message: str) -> None:
    assert read_error(body).message == message


def test_what_looks_like_a_key_is_not_told() -> None:
    said = "Incorrect key sk-abcdef123456 (Bearer abcdefgh)"
    assert read_error({"error": said}).message == "Incorrect key sk-*** (Bearer ***)"


def test_an_error_of_any_depth_is_read() -> None:
    body: Any = "deep"
    for _ in range(5_000):
        body = {"error": body}
    assert read_error(body).message == ""


@pytest.mark.parametrize("code", [400, "400", 7, None, "", ["a"], {"a": 1}, True])
def test_a_code_that_is_no_text_is_left_out(code: object) -> None:
    error = translate_status(400, {"error": {"message": "a", "code": code, "param": 3}})
    assert error.details is None


@pytest.mark.parametrize(
    ("code", "status"),
    [(429, 503), ("503", 502), (400, 400), (None, 502), (7, 502), ("x", 502), ("\u00b2", 502)],
)
def test_an_error_with_status_200_has_the_status_that_it_names(code: object, status: int) -> None:
    error = translate_reported({"error": {"message": "a", "code": code}})
    assert error.status == status
    assert isinstance(error, ProviderError)
    assert not error.may_be_charged


@pytest.mark.parametrize("code", ["insufficient_quota", "invalid_api_key"])
def test_what_concerns_weir_s_account_is_for_the_operator_alone(code: str) -> None:
    error = translate_reported({"error": {"message": "your account acme", "code": code}})
    assert type(error) is ProviderRefusedWeir
    assert "acme" not in error.message
    assert error.provider_message == "your account acme"


def test_openai_s_403_for_a_model_names_the_model() -> None:
    body = {"error": {"message": "Project p does not have access", "code": "model_not_found"}}
    assert type(translate_status(403, body)) is ModelNotFound


@pytest.mark.parametrize("status", [400, 404])
def test_an_item_that_another_target_keeps_is_looked_for_there(status: int) -> None:
    words = "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false."
    error = translate_status(status, {"error": {"message": words, "param": "input"}})
    assert isinstance(error, ProviderRefusedRequest)
    assert error.try_next
    other = translate_status(status, {"error": {"message": "Item 3 is not valid."}})
    assert isinstance(other, ProviderRefusedRequest)
    assert not other.try_next
