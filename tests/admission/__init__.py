"""Tests of identity and limits."""
