"""The secret managers that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clouds import Clouds
from tests.support.moto import Moto


@pytest.fixture(scope="session")
def aws() -> Iterator[Moto]:
    with Moto() as server:
        yield server


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with Clouds(tmp_path_factory.mktemp("clouds")) as server:
        yield server
