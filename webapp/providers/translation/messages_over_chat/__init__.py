"""Anthropic's Messages that are answered by a provider of chat completions."""
