#!/usr/bin/env bash
# Builds the image `weir` with docker, podman or buildah: the first that works, or the one that
# ENGINE names. The arguments are options of its build.
set -euo pipefail
cd "$(dirname "$0")/.."

# A client without an engine answers `version`, but not `info`.
for engine in ${ENGINE:-docker podman buildah}; do
  if "$engine" info >/dev/null 2>&1; then
    # OCI's format, which the other two would take, knows no health check.
    [[ $engine == docker ]] || set -- --format docker "$@"
    exec "$engine" build --file deploy/Dockerfile --tag weir "$@" .
  fi
done
echo "An image is built with docker, podman or buildah: not with ${ENGINE:-any of them} here." >&2
exit 1
