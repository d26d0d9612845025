"""Run by gcloud's own Python: parses commands as gcloud does, without an account, so none is sent.

Reads a list of commands (JSON, without `gcloud`) and the folder of gcloud. What gcloud says of each
goes to stderr, with a NUL before it.
"""

import contextlib
import json
import sys

commands, root = json.loads(sys.argv[1]), sys.argv[2]
sys.path[:0] = [f"{root}/lib", f"{root}/lib/third_party"]

import gcloud  # noqa: E402, F401 finds its own packages
from googlecloudsdk import gcloud_main  # noqa: E402

cli = gcloud_main.CreateCLI([])
for command in commands:
    print(end="\0", file=sys.stderr, flush=True)
    with contextlib.suppress(SystemExit):
        cli.Execute(command)
    sys.stderr.flush()
