"""The admin API under /admin, one blueprint per file."""
