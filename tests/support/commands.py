"""Runs flask commands in this process, which saves the start of Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from unittest.mock import patch

from click.testing import CliRunner
from flask.cli import FlaskGroup

from webapp.application import create_app


def run_flask(env: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """Run `flask …` in this environment. Unexpected errors are raised.

    Only one at a time, as the environment belongs to the whole process.
    """
    with patch.dict(os.environ, env, clear=True):
        app = create_app()
        command = FlaskGroup(create_app=lambda: app, load_dotenv=False)
        try:
            done = CliRunner(catch_exceptions=False).invoke(command, args)
        finally:
            app.extensions["weir"].database.engine.dispose()
    return subprocess.CompletedProcess(["flask", *args], done.exit_code, done.stdout, done.stderr)
