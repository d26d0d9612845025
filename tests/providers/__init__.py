"""What every provider promises, and what a provider does beyond it."""
