"""The yardstick: the smallest Flask route there is."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def bare() -> dict[str, bool]:
    return {"alive": True}
