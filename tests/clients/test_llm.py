"""The command-line tool `llm`, against a live Weir."""

from __future__ import annotations

import pytest

from tests.clients.programs import Outcomes, python_checks, run_python


@pytest.fixture(scope="module")
def outcomes(facts: dict[str, str]) -> Outcomes:
    return run_python("llm", facts)


@pytest.mark.parametrize("check", python_checks("llm"))
def test_llm(outcomes: Outcomes, check: str) -> None:
    outcomes.expect(check)
