#!/usr/bin/env bash
# Builds the image `weir` with docker, podman or buildah: the first that works, or $ENGINE.
# The arguments are passed to its `build` command.
set -euo pipefail
cd "$(dirname "$0")/.."

# Without a running engine, a client's `version` works, but `info` fails.
for engine in ${ENGINE:-docker podman buildah}; do
  if "$engine" info >/dev/null 2>&1; then
    # The default format of the other two, OCI, has no health check.
    [[ $engine == docker ]] || set -- --format docker "$@"
    exec "$engine" build --file deploy/Dockerfile --tag weir "$@" .
  fi
done
echo "An image is built with docker, podman or buildah: not with ${ENGINE:-any of them} here." >&2
exit 1
