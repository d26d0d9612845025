"""Access to the stores: the database, Redis, and what is built on them."""
