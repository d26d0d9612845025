"""`flask worker`: a process that works on batches and jobs beside those that serve requests."""

from __future__ import annotations

import os
import sys

import click


@click.command("worker")
def command() -> None:
    """Work on batches and jobs until SIGTERM. Start as many as there is work for."""
    # A new program, as gevent has to patch before anything is imported.
    os.execv(sys.executable, [sys.executable, "-m", "webapp.batch_worker"])  # noqa: S606
