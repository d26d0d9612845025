"""How Weir reaches its stores."""
