"""Tests of the endpoints for programs."""
