"""`flask doctor`: checks this installation and suggests fixes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from webapp.cli.ready import name_database
from webapp.diagnosis.doctor import findings as all_findings
from webapp.services import services
from webapp.settings import environment


@click.command("doctor")
@click.option("--url", default="", help="Also check this public URL of Weir.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(url: str, as_json: bool) -> None:
    """Check settings, secrets, stores, clock, providers, prices, workers and batches.

    Costs nothing. Exits with 1 if there is a problem.
    """
    name_database()
    findings = []
    for finding in all_findings(services(), environment(), url):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.status:<8} {finding.check + ':':<11}{finding.found}")
            if finding.advice:
                click.echo(f"{'':<20}{finding.advice}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    sys.exit(any(finding.status == "problem" for finding in findings))
