"""The doors for administrators' programs, under /admin: one blueprint a file."""
