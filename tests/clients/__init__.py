"""Real client software, each in an environment of its own, against a live Weir.

Each client has a folder: what it needs, pinned, and a program that does with it what its users do.
A program tries one behaviour per function and prints what came of each as a line of JSON; its test
module starts the servers, runs it once and shows every behaviour as a test of its own. The first
run installs the clients from the package registries; they are kept below `.venv/clients`.
"""
