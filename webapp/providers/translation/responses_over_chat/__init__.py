"""Responses that are answered by a provider of chat completions."""
