#!/usr/bin/env bash
# Builds a base image for deploy/Dockerfile from Debian's packages, for machines without access to a
# registry. Prints the options for `make image`. Needs root, podman and mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")/.."

# For example python:3.13.16-slim-trixie; without its patch version, as Debian has its own.
name=$(sed -n 's/^FROM \(.*\) AS build$/\1/p' deploy/Dockerfile)
# shellcheck disable=SC2001 # bash's own replacement has no groups
minor=$(sed 's/^\(python:[0-9]*\.[0-9]*\)\.[0-9]*/\1/' <<<"$name")
suite=${minor##*-}
python=${minor%%-*}
python=python${python#*:}
base=localhost/${minor/:/-}-of-packages
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weir/${base##*/}.tar

if [[ ! -e $cache ]]; then
  mkdir -p "${cache%/*}"
  # Like the registry's image: no compiler, documentation or bytecode; `python` in /usr/local/bin.
  mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
    --include="ca-certificates,$python-venv" \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook="find \"\$1/usr/lib\" -name __pycache__ -prune -exec rm -r {} +" \
    --customize-hook="ln -s /usr/bin/$python \"\$1/usr/local/bin/python\"" \
    "$suite" "$cache.new"
  mv "$cache.new" "$cache"
fi
podman import --quiet "$cache" "$base" >/dev/null
echo "--build-context $name=container-image://$base"
