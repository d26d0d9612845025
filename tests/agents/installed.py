"""Installs an agent from the npm registry, once per version, below `.agents`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.clients import environments
from tests.clients.environments import Node

AGENTS = Path(__file__).parent
KEPT = AGENTS.parents[1] / ".agents"
# The oldest Node that the agents' own scripts and today's npm run on.
OLDEST_NODE = 20


def opencode() -> list[str]:
    """The words that start opencode."""
    node = _node()
    package = _packages("opencode", "opencode-ai", node) / "opencode-ai"
    program = package / "bin" / "opencode.exe"
    # Before its script has chosen the build for this machine, there is only a text.
    if program.stat().st_size < 1_000_000:
        environments.run([*node.node, "postinstall.mjs"], package)
    return [str(program)]


def codex() -> list[str]:
    """The words that start Codex."""
    node = _node()
    package = _packages("codex", "@openai/codex", node) / "@openai" / "codex"
    return [*node.node, str(package / "bin" / "codex.js")]


def _node() -> Node:
    return environments.machine_node(OLDEST_NODE) or environments.wheel_node("openai_node")


def _packages(agent: str, package: str, node: Node) -> Path:
    """The folder of packages that the agent's package.json names."""
    manifests = [AGENTS / agent / name for name in ("package.json", "package-lock.json")]
    version = json.loads(manifests[0].read_text())["dependencies"][package]

    def install(folder: Path) -> None:
        folder.mkdir()
        for manifest in manifests:
            shutil.copy(manifest, folder)
        # Not `ci`: that wants the builds for all platforms, and not every mirror has them.
        command = [*node.npm, "install", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund"]
        environments.run(command, folder)

    return environments.made_once(KEPT / f"{agent}-{version}", install) / "node_modules"
