"""Chat completions that are answered by a provider of Anthropic's Messages."""
