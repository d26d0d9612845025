"""A minimal Flask route, to compare Weir with."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def bare() -> dict[str, bool]:
    return {"alive": True}
