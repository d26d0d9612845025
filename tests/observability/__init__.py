"""Seeing inside, and a worker's life."""
