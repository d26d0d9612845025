"""The official OpenAI SDK for Python, against a live Weir."""

from __future__ import annotations

import pytest

from tests.clients.programs import Outcomes, python_checks, run_python


@pytest.fixture(scope="module")
def outcomes(facts: dict[str, str]) -> Outcomes:
    return run_python("openai_python", facts)


@pytest.mark.parametrize("check", python_checks("openai_python"))
def test_openai_python(outcomes: Outcomes, check: str) -> None:
    outcomes.expect(check)
