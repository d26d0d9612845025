"""Tests of webapp/secrets_managers and of what a rotation of secrets does."""
