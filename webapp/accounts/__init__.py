"""Accounts and keys: tables and the rules over them."""
