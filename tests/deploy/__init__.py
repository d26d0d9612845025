"""Pipelines, publishing, and what deploys to platforms."""
