"""Tests of the core: from a request to an answer."""
