#!/usr/bin/env bash
# Stands in for az: writes down each command that changes something, and answers from $STATE.
changed() { printf '%s\n' "$*" >>"$STATE/changes"; }
answer() { [[ -e $STATE/$1 ]] && printf '%s\n' "$(<"$STATE/$1")"; }
case "$*" in
  'resource list '*) answer vault || true ;;
  # az ends with 3 if there is no such resource.
  'resource show '*)
    [[ ! -e $STATE/unavailable ]] || { echo 'ERROR: (ServiceUnavailable) Try again.' >&2 && exit 1; }
    [[ -e $STATE/stored ]] || { echo 'ERROR: (SecretNotFound) It was not found.' >&2 && exit 3; } ;;
  'deployment group create '*)
    changed "$@"
    for word; do
      [[ $word != @* ]] || cp "${word#@}" "$STATE/parameters"
    done
    echo /vaults/weir >"$STATE/vault"
    : >"$STATE/stored" ;;
  *'containerapp job start '*) changed "$@" && echo weir-migrate-1 ;;
  *'job execution show '*) answer migration ;;
  *'containerapp show '*latestReady*) answer latest ;;
  *'containerapp show '*traffic*) answer traffic ;;
  *'containerapp show '*fqdn*) echo weir.kind-hill.westeurope.azurecontainerapps.io ;;
  *) changed "$@" ;;
esac
