"""Writes what the chart and the plain manifests take from elsewhere: `make manifests`.

The chart gets Weir's version, the alert rules, the dashboard and the names of the settings; the
manifests of deploy/kubernetes are rendered from the chart.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.checkers import unpack
from webapp import settings
from webapp.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "weir"
PLAIN = ROOT / "deploy" / "kubernetes"
OBSERVABILITY = ROOT / "deploy" / "observability"

# What the chart decides itself.
OF_THE_CHART = {"PORT", "DATA_DIR", "DEBUG", "ALLOW_EPHEMERAL_SQLITE"}
# A URL without a password is no secret.
ADDRESSES = {
    "DATABASE_URL": r"^postgres(ql)?(\+\w+)?://([^:@/?]+@)?[^@?]+$",
    "REDIS_URL": r"^redis(s)?(\+\w+)?://([^:@/?]+@)?[^@?]+$",
    "BROKER_URL": r"^(amqps?|rediss?|sqs|gcpubsub)://([^:@/?]+@)?[^@?]*$",
}
NARROWER: dict[str, dict[str, Any]] = {
    "APP_ENV": {"const": "production"},
    "TRUSTED_PROXIES": {"type": "integer", "minimum": 0, "maximum": 16},
    "SHUTDOWN_GRACE": {"type": "number", "minimum": 1, "maximum": 3600},
}
SECRET = {
    "secret.name": "weir",
    "secret.settings.DATABASE_URL": "DATABASE_URL",
    "secret.settings.REDIS_URL": "REDIS_URL",
}
# The file of deploy/kubernetes: the templates in it, and the values that they need.
RENDERED: dict[str, tuple[list[str], dict[str, str]]] = {
    "base/weir.yaml": (
        ["serviceaccount", "networkpolicy", "poddisruptionbudget", "service", "deployment",
         "horizontalpodautoscaler"],
        {},
    ),
    "worker/worker.yaml": (
        ["worker/networkpolicy", "worker/poddisruptionbudget", "worker/deployment"],
        {"worker.enabled": "true"},
    ),
    "keda/scaledobject.yaml": (
        ["worker/scaledobject"],
        {"worker.enabled": "true", "worker.keda.enabled": "true"},
    ),
    "gateway/route.yaml": (
        ["httproute"],
        {
            "route.enabled": "true",
            "route.parentRefs[0].name": "public",
            "route.parentRefs[0].namespace": "gateway",
            "route.hostnames[0]": "weir.example.com",
        },
    ),
    "monitoring/monitoring.yaml": (
        ["servicemonitor", "prometheusrule", "dashboard"],
        {
            "secret.settings.METRICS_TOKEN": "METRICS_TOKEN",
            "metrics.serviceMonitor.enabled": "true",
            "metrics.rules.enabled": "true",
            "metrics.dashboard.enabled": "true",
        },
    ),
}  # fmt: skip
HEAD = "# Written by `make manifests` from the chart in deploy/helm/weir.\n"


def of_the_chart() -> Iterator[tuple[Path, str]]:
    """Each file of the chart that holds something from elsewhere, with the text it should have."""
    yield CHART / "files/rules.yml", (OBSERVABILITY / "rules.yml").read_text()
    dashboard = OBSERVABILITY / "grafana/dashboards/weir.json"
    yield CHART / "files/dashboard.json", dashboard.read_text()
    chart = (CHART / "Chart.yaml").read_text()
    versions = re.compile(r"^(version|appVersion): .*$", re.MULTILINE)
    yield CHART / "Chart.yaml", versions.sub(rf"\1: {VERSION}", chart)
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"]["settings"] |= setting_schemas()
    yield CHART / "values.schema.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def setting_schemas() -> dict[str, Any]:
    """What `settings` may hold: every setting by name, secrets as references only."""
    properties, patterns = {}, {}
    for declared in settings.table():
        name, meaning = declared.metadata["variable"], declared.metadata["meaning"]
        kind = "reference" if declared.metadata["secret"] else "plain"
        if name in settings.NEVER_REFERENCES:
            kind = "pattern"
        values: dict[str, Any] = {"$ref": f"#/$defs/{kind}"}
        if name in ADDRESSES:
            values = {"anyOf": [values, {"pattern": ADDRESSES[name]}]}
        about = {"description": meaning} | NARROWER.get(name, values)
        if "<NAME>" in name:
            patterns["^" + name.replace("<NAME>", "[A-Z][A-Z0-9_]*") + "$"] = about
        elif name not in OF_THE_CHART:
            properties[name] = about
    plain, reference = {"$ref": "#/$defs/plain"}, {"$ref": "#/$defs/reference"}
    patterns["^PROVIDER_[A-Z][A-Z0-9_]*_(BASE_URL|PRICES)$"] = plain
    patterns["^PROVIDER_[A-Z][A-Z0-9_]*_API_KEY$"] = reference
    # Of OpenTelemetry's, those without a secret.
    patterns["^OTEL_(SERVICE_NAME|RESOURCE_ATTRIBUTES|TRACES_[A-Z_]+|BSP_[A-Z_]+)$"] = plain
    return {"properties": properties, "patternProperties": patterns}


def plain_manifests(helm: Path) -> Iterator[tuple[Path, str]]:
    """Each rendered file of deploy/kubernetes, with the text it should have."""
    for name, (templates, values) in RENDERED.items():
        shown = [f"--show-only=templates/{template}.yaml" for template in templates]
        given = [f"--set={value}={text}" for value, text in (SECRET | values).items()]
        done = subprocess.run(  # noqa: S603
            [helm, "template", "weir", CHART, *shown, *given],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        # Helm does not manage these.
        text = re.sub(
            r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^# Source: .*\n",
            "", done.stdout, flags=re.MULTILINE,
        )  # fmt: skip
        yield PLAIN / name, HEAD + text


def main() -> None:
    for path, text in of_the_chart():
        path.write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        for path, text in plain_manifests(unpack(Path(folder)) / "helm"):
            path.write_text(text)


if __name__ == "__main__":
    main()
