"""Accounts and keys."""
