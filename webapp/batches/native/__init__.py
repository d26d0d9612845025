"""Batches of the providers' own: handed over as a whole, at the batch price, and collected later.

`choice` says whether a batch may go that way. `native_batches` takes the steps of `reservation`,
`submission` and `collection`; `collector` settles what comes back. `openai` and `anthropic` speak
to the providers.
"""

from __future__ import annotations

from webapp.batches.native.ports import ProviderBatches
from webapp.llm.ports import Provider


def batches_of(provider: Provider) -> ProviderBatches | None:
    """The batches of a provider; None where its kind has none. SDKs are imported when used."""
    if provider.kind in {"openai", "azure"}:
        from webapp.batches.native.openai import OpenAIBatches
        from webapp.providers.openai import OpenAIProvider

        return OpenAIBatches(provider) if isinstance(provider, OpenAIProvider) else None
    if provider.kind == "anthropic":
        from webapp.batches.native.anthropic import AnthropicBatches
        from webapp.providers.anthropic import AnthropicProvider

        return AnthropicBatches(provider) if isinstance(provider, AnthropicProvider) else None
    return None
