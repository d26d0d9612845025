"""Accounts and keys: database tables and the rules of changing them."""
