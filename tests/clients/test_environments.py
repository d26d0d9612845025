"""How the environments of the clients are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import environments


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "KEPT", tmp_path / "clients")
    return tmp_path / "clients"


def test_an_environment_is_made_once(kept: Path) -> None:
    made: list[Path] = []

    def install(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)

    for _ in range(2):
        assert environments.made_once(kept / "one", install).is_dir()
    assert len(made) == 1


def test_an_interrupted_installation_leaves_nothing(kept: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise environments.CouldNotInstall("the line is dead")

    with pytest.raises(environments.CouldNotInstall):
        environments.made_once(kept / "one", fail)
    assert [*kept.iterdir()] == []


def test_of_two_installations_at_once_the_first_is_kept(kept: Path) -> None:
    def be_late(folder: Path) -> None:
        folder.mkdir()
        (kept / "one").mkdir()
        (kept / "one" / "first").touch()

    made = environments.made_once(kept / "one", be_late)
    assert [path.name for path in made.iterdir()] == ["first"]
    assert [path.name for path in kept.iterdir()] == ["one"]


def test_a_node_that_is_too_old_is_passed_over() -> None:
    assert environments.machine_node(oldest=1000) is None


def test_a_wheel_s_node_runs_its_own_npm(tmp_path: Path) -> None:
    node = environments.wheel_node("openai_node")
    version = environments.run([*node.node, "--version"])
    assert int(version.removeprefix("v").split(".")[0]) >= environments.OLDEST_NODE
    assert environments.run([*node.npm, "--version"], tmp_path)[0].isdigit()
