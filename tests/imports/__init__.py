"""Tests of what is taken over from other gateways."""
