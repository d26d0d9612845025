"""Batches and jobs: requests that are answered later, with the database as the only truth.

`validation` reads an input file into lines; `executor` runs them through the gateway, or `native`
hands them to the provider; `finalization` writes the output. Any process may take any step: what
one has begun belongs to it while its heartbeat goes on (`workers`), and to nobody after that.
"""
