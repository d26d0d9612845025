"""Reads what other gateways are configured with, and says it in Weir's settings."""
