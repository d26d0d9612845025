"""Puts the parts of native batches together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webapp.admission.identity import Principal
from webapp.batches.batch_store import BatchStore
from webapp.batches.line_format import LineFormat
from webapp.batches.native import batches_of
from webapp.batches.native.choice import ModeChoice
from webapp.batches.native.collector import Collector
from webapp.batches.native.native_batches import NativeBatches
from webapp.batches.native.part_lines import PartLines
from webapp.batches.native.parts import PartStore
from webapp.batches.native.requests import LineRequests
from webapp.llm.gateway import Gateway
from webapp.llm.ports import Prices
from webapp.metering.ledger import Ledger
from webapp.storage.blobs import BlobStore
from webapp.storage.database import Database


@dataclass(frozen=True, slots=True)
class Native:
    choice: ModeChoice
    batches: NativeBatches


def make_native(
    database: Database,
    blobs: BlobStore,
    batches: BatchStore,
    ledger: Ledger,
    prices: Prices,
    gateway: Gateway,
    line_format: LineFormat,
    principal_of: Callable[[int], Principal | None],
    redact: Callable[[str], str],
) -> Native:
    """`principal_of` gives a key as it is now; `redact` takes secrets out of a provider's words."""
    parts, lines = PartStore(database), PartLines(database)
    requests = LineRequests(gateway, line_format, blobs, principal_of)
    providers = {provider.name: provider for provider in gateway.router.providers}
    collector = Collector(ledger, lines, requests, line_format, redact)
    return Native(
        ModeChoice(ledger, lines, requests, prices, batches_of),
        NativeBatches(
            database, batches, ledger, parts, lines, requests, collector, providers, batches_of
        ),
    )
