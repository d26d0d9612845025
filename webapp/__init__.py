"""Weir: a self-hosted LLM API with keys, limits and a cache.

Nothing is imported here: Gunicorn's master imports the worker class and the logger from this
package before gevent has patched anything. The application is put together in application.py.
"""
