"""The endpoints for administrators' programs, under /admin: one blueprint a file."""
