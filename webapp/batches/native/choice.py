"""Chooses how a valid batch is worked on, and says why."""

from __future__ import annotations

import time
from collections.abc import Collection

from webapp import money
from webapp.batches.batch import Batch
from webapp.batches.native.native_batches import MakeBatches
from webapp.batches.native.part_lines import LAST_LINE, PartLines
from webapp.batches.native.ports import ProviderAway, Refused
from webapp.batches.native.requests import BATCH_TIER, KeyRevoked, LineRequests
from webapp.batches.tables import LineState, Mode
from webapp.batches.validation import Validated
from webapp.batches.validator import NotPossible
from webapp.errors import ModelNotFound
from webapp.llm.cost_ceiling import STANDARD
from webapp.llm.messages import Usage
from webapp.llm.ports import Price, Prices
from webapp.llm.routing import Target
from webapp.metering.ledger import Ledger

WINDOW = "24h"  # of all providers' batches
MILLION = Usage(1_000_000, 1_000_000)


class ModeChoice:
    """Implements ChooseMode. May raise StoreUnavailable, and BlobMissing."""

    def __init__(
        self,
        ledger: Ledger,
        lines: PartLines,
        requests: LineRequests,
        prices: Prices,
        make: MakeBatches,
    ) -> None:
        self._ledger = ledger
        self._lines = lines
        self._requests = requests
        self._prices = prices
        self._make = make

    def __call__(self, batch: Batch, found: Validated) -> tuple[Mode, str | None]:
        """Raises NotPossible where the client named `native`."""
        if batch.mode is Mode.DIRECT:
            return Mode.DIRECT, None
        try:
            target, price = self._native_target(batch, found.models, batch.mode is Mode.AUTO)
        except NotPossible as error:
            if batch.mode is Mode.NATIVE:
                raise
            return Mode.DIRECT, str(error)[:300]
        if batch.mode is Mode.NATIVE:
            return Mode.NATIVE, f"The client asked for it; {target.name} takes it."[:300]
        saved = _saved(price)
        if saved <= 0:
            reason = f"The batch price of {target.name} is not lower than its price for one call."
            return Mode.DIRECT, reason[:300]
        if refusal := self._refusal(batch, target):
            return Mode.DIRECT, refusal[:300]
        reason = f"The batch price of {target.name} is {saved:.0%} lower, and its ceiling fits."
        return Mode.NATIVE, reason[:300]

    def _native_target(
        self, batch: Batch, models: Collection[str | None], must_answer: bool
    ) -> tuple[Target, Price]:
        """The one target of all lines, and its price. Raises NotPossible."""
        if batch.completion_window != WINDOW:
            raise NotPossible(f"Providers' own batches have a completion window of {WINDOW}.")
        try:
            targets = {one.name: one for one in map(self._requests.target_of_model, models)}
        except ModelNotFound as error:
            raise NotPossible(error.message) from None
        if len(targets) != 1:
            names = ", ".join(sorted(targets))
            raise NotPossible(f"A provider's batch has one model; these lines go to {names}.")
        [target] = targets.values()
        api = self._make(target.provider)
        if api is None:
            raise NotPossible(f"Provider {target.provider.name!r} has no batches of its own.")
        if batch.endpoint not in api.endpoints:
            raise NotPossible(
                f"Provider {target.provider.name!r} has no batches for {batch.endpoint}."
            )
        price = self._prices.of(target.provider.name, target.provider.kind, target.model)
        if price is None or BATCH_TIER not in price.tiers:
            raise NotPossible(f"Model {target.name} has no batch price.")
        try:
            exist = api.exist()
        except (ProviderAway, Refused) as error:
            if must_answer:
                raise NotPossible(
                    f"Provider {target.provider.name!r} did not say whether it has batches."
                ) from error
            exist = True  # submitting goes on until it answers
        if not exist:
            raise NotPossible(f"Provider {target.provider.name!r} has no batches of its own.")
        return target, price

    def _refusal(self, batch: Batch, target: Target) -> str | None:
        """Why the ceiling of the whole batch does not fit the budgets and the cap."""
        lines = self._lines.between(batch, 1, LAST_LINE, LineState.WAITING)
        total, unpriced, billing = 0, None, None
        try:
            for one in self._requests.of(batch, target, lines):
                if one.costs:
                    unpriced = unpriced or one.costs.ceiling.unpriced
                    total += one.costs.ceiling.nano or 0
                    billing = one.billing
        except KeyRevoked:
            return "The API key of this batch does not work any more."
        if billing is None or not billing.has_budget:
            return None
        if unpriced:
            return f"{unpriced}."
        for budget in self._ledger.budgets_of(billing):
            if budget.refusal(total, time.time()):
                return (
                    f"The ceiling of the whole batch, {money.text(total)} USD, does not fit "
                    f"{budget.name}."
                )
        return None


def _saved(price: Price) -> float:
    """The share by which a call is cheaper at the batch price."""
    batch, single = price.dearest(MILLION, {BATCH_TIER}), price.dearest(MILLION, {STANDARD})
    return 1 - batch / single if batch is not None and single else 0.0
