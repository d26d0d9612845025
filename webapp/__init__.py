"""Weir: a self-hosted LLM API with keys, limits and a cache.

Imports nothing: Gunicorn's master imports the worker class and the logger from this package before
gevent has patched anything. application.py creates the application.
"""
