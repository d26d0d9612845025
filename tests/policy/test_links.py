"""Every link of the README and the docs leads to a file and a heading that are there."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.policy.test_policy import ROOT, tracked

PAGES = tracked("*.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = ("http://", "https://", "mailto:")


def without_code(text: str) -> str:
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", lambda code: "`" + re.sub(r"[\[\]()]", "", code[0]) + "`", text)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return frozenset(found)


def problem(page: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT):
        return "leads out of the repository"
    if not target.exists():
        return "leads nowhere"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return "names a heading that is not there"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(without_code(page.read_text()))
    inside = [link for link in links if not link.startswith(ELSEWHERE)]
    problems = {link: problem(page, link) for link in inside}
    assert {link: said for link, said in problems.items() if said} == {}


def test_the_anchors_are_github_s() -> None:
    assert "what-was-shown-and-how" in anchors(ROOT / "docs/deploying/README.md")
    assert "your-repositorys-address" in anchors(ROOT / "docs/deploying/README.md")
    assert problem(ROOT / "README.md", "docs/nowhere.md") == "leads nowhere"
    assert problem(ROOT / "README.md", "../README.md") == "leads out of the repository"
    assert problem(ROOT / "README.md", "#no-such-heading") == "names a heading that is not there"
