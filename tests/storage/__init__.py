"""Tests of how Weir reaches its stores."""
