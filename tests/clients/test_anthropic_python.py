"""The official Anthropic SDK for Python, and LangChain's package on it, against a live Weir."""

from __future__ import annotations

import pytest

from tests.clients.programs import Outcomes, python_checks, run_python


@pytest.fixture(scope="module")
def outcomes(facts: dict[str, str]) -> Outcomes:
    return run_python("anthropic_python", facts)


@pytest.mark.parametrize("check", python_checks("anthropic_python"))
def test_anthropic_python(outcomes: Outcomes, check: str) -> None:
    outcomes.expect(check)
