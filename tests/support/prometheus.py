"""A real Prometheus with the shipped configuration, and the queries of the shipped dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.servers import REPOSITORY, Server, Weir

SHIPPED = REPOSITORY / "deploy" / "observability"
DASHBOARD = SHIPPED / "grafana" / "dashboards" / "weir.json"
RULES = SHIPPED / "rules.yml"
# The names of Weir's metrics, with suffixes such as _bucket.
METRIC = re.compile(r"\bweir_[a-z_]+")


class Prometheus(Server):
    """Runs the shipped configuration, except for Weir's address, the token and the intervals."""

    def __init__(self, weir: Weir, token: str, every: str = "1s") -> None:
        super().__init__()
        self.config = write_config(self.folder, weir, token, every)

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Query at a time, or now. Raises ValueError if the expression is invalid."""
        return self._ask("query", query=expression, time=at)["result"]

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """Query a time range. Raises ValueError if the expression is invalid."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)["result"]

    def rules(self) -> list[dict[str, Any]]:
        """The current state of every rule: name, health, alerts."""
        groups = self._ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        return self._ask("targets")["activeTargets"]

    def _ask(self, what: str, **parameters: object) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}"
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, params=parameters, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer['error']}: {parameters}")
        return answer["data"]

    def _command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def _is_ready(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False
                return session.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False


def write_config(folder: Path, weir: Weir, token: str, every: str) -> Path:
    """The shipped configuration, changed for this Weir."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": every, "scrape_timeout": every} | {
        "evaluation_interval": every
    }
    config["rule_files"] = [str(_rules(folder, name, every)) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    [target] = job["static_configs"]
    target["targets"] = [f"127.0.0.1:{weir.port}"]
    credentials = folder / "metrics_token"
    credentials.write_text(token)
    job["authorization"]["credentials_file"] = str(credentials)
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(config))
    return written


def _rules(folder: Path, name: str, every: str) -> Path:
    """The shipped rules, evaluated as often."""
    rules = yaml.safe_load((SHIPPED / name).read_text())
    for group in rules["groups"]:
        group["interval"] = every
    written = folder / name
    written.write_text(yaml.safe_dump(rules))
    return written


# -- the shipped dashboard and rules --


@lru_cache
def dashboard() -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return shown


def panels() -> list[dict[str, Any]]:
    """The panels, without the row headings between them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any], rate_interval: str = "15s") -> Iterator[str]:
    """The queries of a panel, with all values of the dashboard's variables selected."""
    for target in panel["targets"]:
        yield filled_in(target["expr"], rate_interval)


def filled_in(expression: str, rate_interval: str = "15s") -> str:
    expression = expression.replace("$__rate_interval", rate_interval)
    for variable in dashboard()["templating"]["list"]:
        expression = expression.replace(f"${variable['name']}", variable.get("allValue", ""))
    return expression


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    return set(METRIC.findall(expression))
