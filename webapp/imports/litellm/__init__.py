"""LiteLLM proxy's `config.yaml` and virtual keys, in Weir's settings and keys."""
