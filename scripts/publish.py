"""Puts the address of your repository on GitHub into every button, template, workflow and page.

    make publish REPOSITORY=owner/name

It replaces the one that app.json names, in all files that git tracks, and may be run again, also
with another name. Only addresses are changed: on github.com, in GitHub's registry (ghcr.io), and
where a platform's file or command names a repository.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

# As GitHub allows them: an owner has no hyphen at its ends and no two in a row.
OWNER_AND_NAME = re.compile(r"([A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)/([A-Za-z0-9._-]{1,100})")
OWNER_MAX = 39
GITHUB = "https://github.com/"
# What stands before the name of a repository where it is an address.
BEFORE = r"github\.com[/:]|raw\.githubusercontent\.com/|github\(\"|--repo[ =]"


def main() -> None:
    repository = sys.argv[1] if len(sys.argv) == 2 else ""
    try:
        changed = publish(Path(), repository)
    except ValueError as problem:
        sys.exit(str(problem))
    for path in changed:
        print(path)
    print(f"{len(changed)} files now name {GITHUB}{repository}.")


def publish(root: Path, repository: str) -> list[Path]:
    """Put the address into the files below this folder; return those that changed."""
    parts = OWNER_AND_NAME.fullmatch(repository)
    if (
        parts is None
        or len(parts[1]) > OWNER_MAX
        or parts[2] in {".", ".."}
        or parts[2].endswith(".git")
    ):
        raise ValueError(f"Not owner/name of a repository on GitHub: {repository!r}")
    former = json.loads((root / "app.json").read_text())["repository"].removeprefix(GITHUB)
    changed = []
    for path in _tracked(root):
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        replaced = replace(text, former, repository)
        if replaced != text:
            path.write_bytes(replaced.encode())
            changed.append(path.relative_to(root))
    return changed


def replace(text: str, former: str, repository: str) -> str:
    """The text with one repository's addresses in place of another's."""
    end = r"(?![A-Za-z0-9_-])"
    address = re.compile(f"({BEFORE}){re.escape(former)}{end}")
    # The registry knows small letters only.
    image = re.compile(f"(ghcr\\.io/){re.escape(former)}{end}", re.IGNORECASE)
    text = address.sub(lambda found: found[1] + repository, text)
    return image.sub(lambda found: found[1] + repository.lower(), text)


def _tracked(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise ValueError(f"This is for a clone of the repository: {listed.stderr.strip()}")
    paths = (root / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


if __name__ == "__main__":
    main()
