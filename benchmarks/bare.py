"""The yardstick: one Flask route that does nothing, under the same Gunicorn worker."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello() -> dict[str, str]:
    return {"hello": "world"}
