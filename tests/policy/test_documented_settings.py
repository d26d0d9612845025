"""Every block of settings in the docs is accepted by Weir, and its routes have prices."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.policy.test_policy import ROOT, tracked
from webapp import settings
from webapp.metering.makers import maker_of
from webapp.metering.prices import PriceTable

BLOCK = re.compile(r"<!-- settings -->\n```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Read by SDKs, not by Weir.
OTHERS = {"AWS_REGION"}
FOUND = [
    pytest.param(block, id=f"{page.relative_to(ROOT).as_posix()}-{number}")
    for page in tracked("*.md")
    for number, block in enumerate(BLOCK.findall(page.read_text()), start=1)
]


@pytest.mark.parametrize("block", FOUND)
def test_documented_settings_are_accepted_and_their_routes_have_prices(
    block: str, tmp_path: Path
) -> None:
    written = dict(line.partition("=")[::2] for line in shlex.split(block))
    known = {declared.metadata["variable"] for declared in settings.table()}
    for variable in written.keys() - known - OTHERS:
        assert variable.startswith(("PROVIDER_", "TIER_")), variable
    loaded = settings.load({"APP_ENV": "development", "DATA_DIR": str(tmp_path), **written})
    providers = {provider.name: provider for provider in loaded.providers}
    table = PriceTable(
        loaded.model_prices, {name: maker_of(provider) for name, provider in providers.items()}
    )
    for route, targets in loaded.model_routes.items():
        for target in targets:
            kind = providers[target.provider].type
            assert table.of(target.provider, kind, target.model), (route, target)


def test_blocks_of_settings_are_found() -> None:
    assert len(FOUND) > 10
