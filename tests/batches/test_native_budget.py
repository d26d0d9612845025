"""Who asks while a native batch holds the budget is told until when."""

from __future__ import annotations

from tests.conftest import MakeWeir
from tests.support.batches import CHAT, BatchClient, line
from tests.support.servers import Provider, wait_until

KEY = "test_key_0123456789"


def test_retry_after_names_the_end_of_the_batch(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIER_ENTERPRISE="usd_per_day=0.01",
        MODEL_PRICES="openai/*: input=1, output=2, max_output=1000, batch.factor=0.5",
        OPENAI_API_KEY="sk-up",
        OPENAI_BASE_URL=provider.base_url,
    )
    client = BatchClient(weir, KEY)
    provider.move_batches(held=True)
    lines = [line(f"c{number}", max_tokens=900) for number in range(10)]
    batch_id = client.begin(lines, weir_mode="native")
    wait_until(provider.batches, 30, "the submission")
    # 9 of 10 tenths are reserved.
    body = line("x", max_tokens=900)["body"]
    refused = weir.post(CHAT, key=KEY, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_reserved")
    assert 86_000 < int(refused.headers["Retry-After"]) <= 86_400
    assert "native batch" in refused.json()["error"]["message"]
    small = body | {"max_tokens": 10}
    assert weir.post(CHAT, key=KEY, json=small).status_code == 200
    client.sdk.batches.cancel(batch_id)
