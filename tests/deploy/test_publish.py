"""`make publish`: the repository's address, everywhere, on a copy of the files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.publish import publish, replace
from tests.support.servers import REPOSITORY

Files = dict[str, bytes]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of the repository may hold an address, tracked by a git of its own."""
    for name in git(REPOSITORY, "ls-files", "-z").split("\0"):
        source = REPOSITORY / name
        if source.suffix in {".png", ".txt", ".js"} or not source.is_file():
            continue
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    shutil.copy(REPOSITORY / "app.json", tmp_path / "untracked.json")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all", ":!untracked.json")
    return tmp_path


def run_publish(folder: Path, repository: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "publish", f"REPOSITORY={repository}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def files(folder: Path) -> Files:
    names = git(folder, "ls-files", "-z").split("\0")
    return {name: (folder / name).read_bytes() for name in names if name}


def addresses(of: Files) -> set[str]:
    """The repositories that buttons, templates and runbooks lead to."""
    text = b"\n".join(of.values()).decode(errors="replace")
    named = r"([\w.-]+/[\w.-]+?)"
    return {
        *re.findall(rf"(?:repo|template)=https://github\.com/{named}\)", text),
        *re.findall(rf'source: github\("{named}"\)', text),
        *re.findall(rf"runbook_url: https://github\.com/{named}/blob/main/docs", text),
    }


def test_one_name_after_another_is_put_everywhere(clone: Path) -> None:
    before = files(clone)
    (former,) = addresses(before)

    for repository in ("acme/gateway", "Other-Org/weir.api"):
        done = run_publish(clone, repository)
        assert done.returncode == 0, done.stderr
        assert f"files now name https://github.com/{repository}." in done.stdout
        published = files(clone)
        assert addresses(published) == {repository}
        assert f"github.com/{former}".encode() not in b"".join(published.values())

        again = run_publish(clone, repository)
        assert again.returncode == 0
        assert again.stdout.startswith("0 files")
        assert files(clone) == published

    assert run_publish(clone, former).returncode == 0
    assert files(clone) == before, "what is no address was changed, or an address was missed"
    assert (clone / "untracked.json").read_bytes() == before["app.json"]


@pytest.mark.parametrize(
    "repository",
    [
        "", "weir", "https://github.com/acme/weir", "acme/weir/more", "acme /weir", "acme/",
        "/weir", "-acme/weir", "acme/..", "acme/weir.git", "a--b/weir", f"{'a' * 40}/weir",
        "acme/we'ir",
    ],
)  # fmt: skip
def test_what_is_no_repository_is_refused_before_anything_is_read(repository: str) -> None:
    with pytest.raises(ValueError, match="Not owner/name"):
        publish(Path("/nowhere"), repository)


def test_a_refusal_is_one_line_and_an_exit_code() -> None:
    refused = run_publish(REPOSITORY, "weir")
    assert refused.returncode != 0
    assert "Not owner/name of a repository on GitHub: 'weir'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://github.com/one/weir.", "https://github.com/Two/api."),
        ("https://github.com/one/weir/blob/main", "https://github.com/Two/api/blob/main"),
        ("git@github.com:one/weir.git", "git@github.com:Two/api.git"),
        ("ghcr.io/one/weir/charts/weir", "ghcr.io/two/api/charts/weir"),
        ("https://github.com/one/weir-tools", "https://github.com/one/weir-tools"),
        ("the model one/weir", "the model one/weir"),
    ],
)
def test_only_addresses_are_replaced(before: str, after: str) -> None:
    assert replace(before, "one/weir", "Two/api") == after


def test_the_registry_gets_small_letters() -> None:
    assert replace("ghcr.io/one/weir", "ONE/weir", "Two/API") == "ghcr.io/two/api"
