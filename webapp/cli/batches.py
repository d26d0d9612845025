"""`flask batches list|show|cancel|retry`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import click
from flask.cli import AppGroup

from webapp import money
from webapp.batches.batch import Batch
from webapp.batches.job import JobStatus
from webapp.batches.job_listing import having, states_of
from webapp.batches.retry import Retries
from webapp.batches.tables import BatchState, Kind, batches
from webapp.cli.ready import ACTOR, ready, show
from webapp.services import services

group = AppGroup("batches", help="List, cancel and retry batches and jobs.")

LISTED = 50
MAX_LISTED = 10_000
BEAT_INTERVAL = 1.0  # seconds

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@group.command("list")
@click.option(
    "--state",
    type=click.Choice([*dict.fromkeys(map(str, (*BatchState, *JobStatus)))]),
    help="Only in this state.",
)
@click.option("--key", "key_id", type=int, help="Only of the key with this id.")
@click.option("--jobs", is_flag=True, help="List jobs instead of batches.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=LISTED,
    show_default=True,
    help="List so many at most.",
)
@json_option
@ready
def list_all(state: str | None, key_id: int | None, jobs: bool, limit: int, as_json: bool) -> None:
    """List batches, the newest first."""
    if state and state not in list(JobStatus if jobs else BatchState):
        raise click.UsageError(f"{'Jobs' if jobs else 'Batches'} have no state '{state}'.")
    where = []
    if state:
        where = having(JobStatus(state)) if jobs else [batches.c.state == state]
    found, more = services().batches.page(
        key_id=key_id,
        kind=Kind.JOB if jobs else Kind.BATCH,
        where=where,
        limit=limit,
        with_errors=as_json,
    )
    costs = services().batches.spent_by(found)
    states = states_of(services().batches, found)
    if as_json:
        shown = [
            _to_dict(batch, states[batch.id], costs.get(batch.id, (0, 0))[0]) for batch in found
        ]
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo(
        f"{'id':<32}{'state':<13}{'key':>5}  {'done':>13}{'failed':>8}{'cost':>12}"
        f"  {'created':<16}  endpoint"
    )
    for batch in found:
        done = f"{batch.total - batch.waiting}/{batch.total}"
        cost = f"${money.text(costs.get(batch.id, (0, 0))[0])}"
        created = datetime.fromtimestamp(batch.created_at, UTC)
        click.echo(
            f"{batch.id:<32}{states[batch.id]:<13}{batch.key_id:>5}  {done:>13}{batch.failed:>8}"
            f"{cost:>12}  {created:%Y-%m-%d %H:%M}  {batch.endpoint}"
        )
    if more:
        click.echo("There are more: see --limit.", err=True)


@group.command("show")
@click.argument("batch_id")
@json_option
@ready
def show_one(batch_id: str, as_json: bool) -> None:
    """Show the batch or job with this id."""
    batch = _find(batch_id)
    state = states_of(services().batches, [batch])[batch.id]
    fields = _to_dict(batch, state, services().batches.spent(batch)[0])
    if batch.failures is None and batch.failed:
        fields["failures"] = services().batch_lines.failures(batch.id)
    if as_json:
        click.echo(json.dumps(fields, indent=2))
    else:
        show({name: value for name, value in fields.items() if value is not None})


@group.command("cancel")
@click.argument("batch_id")
@ready
def cancel(batch_id: str) -> None:
    """Cancel a batch or job.

    No further line of a batch begins; those that run end. A job that runs is stopped.
    """
    batch = services().batches.cancel(_find(batch_id), ACTOR)
    state = states_of(services().batches, [batch])[batch.id]
    click.echo(f"{batch.kind.capitalize()} {batch.id} is {state}.")


@group.command("retry")
@click.argument("batch_id")
@ready
def retry(batch_id: str) -> None:
    """Start a new batch with the failed lines of one that has ended, and print its id.

    It is for the same key and endpoint, with the same metadata and cost cap. The input file must
    still be stored.
    """
    batch = _find(batch_id)
    if services().identities.of_key_id(batch.key_id) is None:
        raise click.ClickException(f"Key {batch.key_id}, which the batch is for, is not active.")
    retries = Retries(services().batches, services().batch_lines, services().files)
    try:
        again = retries.retry(batch, ACTOR, f"retry-{batch.id}", tick=_Beat().beat_if_due)
    finally:
        services().ledger.settle_all()  # so that this process is no worker any more
    click.echo(f"Started a batch with {batch.failed} lines of {batch.id}:", err=True)
    click.echo(again.id)


class _Beat:
    """Says that this process lives: what is being written by one that does not is removed."""

    def __init__(self) -> None:
        self._due = time.monotonic() + BEAT_INTERVAL

    def beat_if_due(self) -> None:
        """May raise StoreUnavailable."""
        if time.monotonic() >= self._due:
            services().ledger.tick()
            self._due = time.monotonic() + BEAT_INTERVAL


def _find(batch_id: str) -> Batch:
    kind = Kind.JOB if batch_id.startswith("job_") else Kind.BATCH
    return services().batches.find(batch_id, kind=kind)


def _to_dict(batch: Batch, state: str, spent_nano: int) -> dict[str, Any]:
    return {
        "id": batch.id,
        "state": state,
        "key_id": batch.key_id,
        "endpoint": batch.endpoint,
        "created_at": _iso(batch.created_at),
        "in_progress_at": _iso(batch.in_progress_at),
        "ended_at": _iso(batch.ended_at),
        "expires_at": _iso(batch.expires_at),
        "total": batch.total,
        "succeeded": batch.succeeded,
        "failed": batch.failed,
        "failures": batch.failures,
        "stopped_by": batch.stopped_by,
        "errors": batch.errors,
        "cost_usd": money.to_usd(spent_nano),
        "cost_cap_usd": money.to_usd(batch.cap_nano),
        "mode": batch.mode,
        "mode_reason": batch.mode_reason,
        "on_lost": batch.on_lost,
        "metadata": batch.metadata,
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "request_id": batch.request_id,
    }


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
