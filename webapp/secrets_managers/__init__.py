"""Reads secrets from where they are kept: one file for each manager, imported when needed."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from webapp.secrets_managers.reference import (
    ManagerUnavailable,
    Reference,
    SecretError,
    value_of,
)
from webapp.secrets_managers.reference import parse as parse_secret

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
# By scheme, the module of its manager, and what installs its SDK.
MODULES = {
    "aws-sm": ("aws", "requirements-aws.txt"),
    "gcp-sm": ("google", "requirements-gcp.txt"),
    "azure-kv": ("azure", "requirements-azure.txt"),
    "file": ("files", ""),
}
# In a new container, what tells it who it is may need some seconds (GKE's metadata server does).
START_TIMEOUT = 15.0
START_RETRY_PAUSE = 1.0
CHILD_TIMEOUT = 120.0

Found = Mapping[Reference, str | SecretError]


class Manager(Protocol):
    def read(self, name: str) -> str:
        """The whole text of a secret. Raises SecretError, ValueError where it is no text."""


_managers: dict[str, Manager] = {}
# What Gunicorn's master has read, for the workers that it forks, and when.
_inherited: dict[Reference, str] = {}
_inherited_at = -math.inf


def read(references: Iterable[Reference]) -> Found:
    """What each reference leads to. Each secret is read once, whatever fields of it are wanted."""
    texts: dict[tuple[str, str], str | SecretError] = {}
    away: dict[str, SecretError] = {}
    found: dict[Reference, str | SecretError] = {}
    for reference in references:
        place = (reference.scheme, reference.name)
        if place not in texts:
            # A manager that is away is waited for once.
            texts[place] = away.get(reference.scheme) or _text_of(*place)
        text = texts[place]
        if isinstance(text, ManagerUnavailable):
            away[reference.scheme] = text
        found[reference] = text if isinstance(text, SecretError) else _value_of(text, reference)
    return found


def read_at_start(references: Iterable[Reference]) -> Found:
    """As read(): what the master has read counts; a manager that is away gets some seconds."""
    wanted = set(references)
    found: dict[Reference, str | SecretError] = {
        reference: _inherited[reference] for reference in wanted & _inherited.keys()
    }
    give_up_at = time.monotonic() + START_TIMEOUT
    while missing := wanted - found.keys():
        read_now = read(missing)
        last_try = time.monotonic() > give_up_at
        found |= {
            reference: value
            for reference, value in read_now.items()
            if last_try or not isinstance(value, ManagerUnavailable)
        }
        if wanted - found.keys():
            time.sleep(START_RETRY_PAUSE)
    return found


def read_in_child(references: Iterable[Reference]) -> Found:
    """As read_at_start(), in a process of its own, for Gunicorn's master.

    An SDK that the master had imported would be broken in its workers: gevent replaces ssl there,
    and it would hold on to the original (gevent issue 1016).
    """
    wanted = list(set(references))
    if all(reference.scheme == "file" for reference in wanted):
        return read(wanted)
    try:
        done = subprocess.run(  # noqa: S603 it is this program
            [sys.executable, "-W", "ignore", "-m", __name__],
            input=json.dumps([[r.scheme, r.name, r.field] for r in wanted]),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=CHILD_TIMEOUT,
            check=True,
        )
        answers = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        answers = [[None, "cannot be read: the process that reads it has failed"]] * len(wanted)
    return {
        reference: SecretError(problem) if value is None else value
        for reference, (value, problem) in zip(wanted, answers, strict=True)
    }


def inherit(values: Mapping[Reference, str]) -> None:
    """Keep what the master has read for its workers: they start though a manager is away, and
    all of them with the same values."""
    global _inherited_at
    _inherited.clear()
    _inherited.update(values)
    _inherited_at = time.monotonic()


def inherited() -> Mapping[Reference, str]:
    return _inherited


def age() -> float:
    """How many seconds ago the master has read what this worker inherits."""
    return time.monotonic() - _inherited_at


def prepare(references: Iterable[Reference]) -> None:
    """Import the SDKs now, as that takes too long while requests run."""
    for scheme in {reference.scheme for reference in references}:
        _manager(scheme)


def _value_of(text: str, reference: Reference) -> str | SecretError:
    try:
        return value_of(text, reference.field)
    except SecretError as error:
        return error


def _text_of(scheme: str, name: str) -> str | SecretError:
    try:
        return _manager(scheme).read(name)
    except SecretError as error:
        return error
    except UnicodeDecodeError:
        return SecretError("is no text (UTF-8)")
    except Exception as error:  # noqa: BLE001 SDKs raise what they like, with the value in it
        return ManagerUnavailable(f"cannot be read ({type(error).__name__})")


def _manager(scheme: str) -> Manager:
    if scheme not in _managers:
        module, requirements = MODULES[scheme]
        try:
            made: Manager = import_module(f"{__name__}.{module}").Manager()
        except ImportError:
            raise SecretError(f"needs a package: pip install -r {requirements}") from None
        if module != "files":
            # They would write about each failure at length. Weir says what failed.
            for logger in ("azure", "botocore", "google", "urllib3"):
                logging.getLogger(logger).setLevel(logging.CRITICAL)
        _managers[scheme] = made
    return _managers[scheme]


__all__ = [
    "Found", "ManagerUnavailable", "Reference", "SecretError", "age", "inherit", "inherited",
    "parse_secret", "prepare", "read", "read_at_start", "read_in_child",
]  # fmt: skip
