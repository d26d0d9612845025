"""The core: from a request to an answer. Knows no Flask, no HTTP, no SDK."""
