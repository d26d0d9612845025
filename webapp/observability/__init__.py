"""Seeing inside: request context, logs, health."""
