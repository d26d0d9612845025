"""What admission works with, bound to the application once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app

from webapp.admission.idempotency_store import IdempotencyStore
from webapp.admission.identity import Identities
from webapp.admission.rate_limits import RateLimits
from webapp.admission.session_store import SessionStore

if TYPE_CHECKING:
    from webapp.admission.bodies import BodyBudget

EXTENSION = "weir.admission"


@dataclass(frozen=True, slots=True)
class AdmissionParts:
    """One of each, for the life of a process."""

    identities: Identities
    rate_limits: RateLimits
    idempotency: IdempotencyStore
    sessions: SessionStore
    bodies: BodyBudget


def bind(app: Flask, parts: AdmissionParts) -> None:
    """Let the requests of this application be admitted by these parts."""
    app.extensions[EXTENSION] = parts


def parts() -> AdmissionParts:
    """The parts of the application that handles the current request."""
    return cast(AdmissionParts, current_app.extensions[EXTENSION])
