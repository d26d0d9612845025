"""The official Anthropic SDK for Node, against a live Weir."""

from __future__ import annotations

import pytest

from tests.clients.programs import Outcomes, node_checks, run_node


@pytest.fixture(scope="module")
def outcomes(facts: dict[str, str]) -> Outcomes:
    return run_node("anthropic_node", facts)


@pytest.mark.parametrize("check", node_checks("anthropic_node"))
def test_anthropic_node(outcomes: Outcomes, check: str) -> None:
    outcomes.expect(check)
