"""The secret managers that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clouds import AWS, Clouds


@pytest.fixture(scope="session")
def aws() -> Iterator[AWS]:
    with AWS() as server:
        yield server


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with Clouds(tmp_path_factory.mktemp("clouds")) as server:
        yield server
