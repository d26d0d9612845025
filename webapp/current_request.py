"""The request that is being handled itself: Flask's `request` looks it up with each access."""

from __future__ import annotations

from typing import Any, cast

from flask import Request, request


def current_request() -> Request:
    """For code that needs several things of the request (Werkzeug's LocalProxy recommends it)."""
    return cast(Request, cast(Any, request)._get_current_object())
