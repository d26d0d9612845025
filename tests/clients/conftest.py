"""The Weir that each client's program is run against, and what the program is told of it."""

from __future__ import annotations

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir

KEYS = {
    "API_KEY": ("test", "enterprise", "test_key_0123456789"),
    "EXHAUSTED_KEY": ("few", "free", "few_key_0123456789"),
    "SLOW_KEY": ("slow", "slow", "slow_key_0123456789"),
}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=",".join(":".join(key) for key in KEYS.values()),
        TIERS="enterprise=9999/minute;free=2/minute;slow=1/second",
        OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="sk-ant-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        DEFAULT_MODEL="stand-in-1",
        # What fails reaches the client at once, so that its own patience is what shows.
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1000,
    )


@pytest.fixture(scope="module")
def facts(weir: Weir, provider: Provider) -> dict[str, str]:
    """What a program finds in its environment."""
    provider.start().reset()
    return {
        "BASE_URL": f"{weir.url}/v1",
        "MODEL": "stand-in-1",
        "PROVIDER_URL": provider.base_url,
        "ANTHROPIC_URL": weir.url,
        "CLAUDE": "stand-in-claude",
        "ANTHROPIC_PROVIDER_URL": provider.anthropic_url,
        "CONTROL_URL": provider.base_url.removesuffix("/v1") + "/control",
        **{name: secret for name, (_, _, secret) in KEYS.items()},
    }
