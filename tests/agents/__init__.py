"""Coding agents themselves, headless, against a live Weir: `make test-agents`.

Each agent has a folder with what npm installs for it, pinned: 780 MB in all, so `make test` leaves
them out. They are kept in `.agents`. An agent gets an empty environment, a home and a folder of its
own; what the stand-in answers lets it read a file by its tool and answer from what it has read.
"""
