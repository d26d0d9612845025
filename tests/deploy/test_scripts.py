"""Every shell script of the repository, by ShellCheck."""

from __future__ import annotations

from tests.policy.test_policy import tracked
from tests.support.checkers import run
from tests.support.servers import REPOSITORY


def is_shell(first_line: bytes) -> bool:
    return first_line.startswith(b"#!") and first_line.strip().endswith((b"bash", b"/sh"))


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = []
    for file in tracked():
        if file.is_file():
            with file.open("rb") as opened:
                if is_shell(opened.readline(100)):
                    scripts.append(file)
    assert {"deploy/gcp/setup.sh", ".github/copy-image"} <= {
        str(script.relative_to(REPOSITORY)) for script in scripts
    }
    checked = run("shellcheck", *scripts)
    assert checked.returncode == 0, checked.stdout
