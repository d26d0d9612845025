"""What was used: counters and figures."""
