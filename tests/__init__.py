"""The tests of Weir; they run against real processes."""
