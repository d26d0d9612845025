#!/usr/bin/env bash
# Deploys a revision of Weir to Cloud Run beside the one that serves, and lets it take over if it
# passes the smoke test; otherwise the traffic goes back to where it was.
#
#     REGION=europe-west1 WEIR_API_KEY=weir_… deploy/gcp/canary.sh --image=IMAGE [FLAG…]
#
# The flags are those of `gcloud run deploy`. PERCENT of the traffic (10) goes to the new revision for
# BAKE_SECONDS (120), then all of it. SERVICE (weir), PYTHON (3.11 or newer). ADDRESS: that of a load
# balancer, where Cloud Run's own addresses are closed; the new revision is tested by its share then.
set -euo pipefail

service=${SERVICE:-weir} region=${REGION:?} percent=${PERCENT:-10} bake=${BAKE_SECONDS:-120}
: "${WEIR_API_KEY:?the key of the smoke test}"
smoke=$(dirname "$0")/../../scripts/smoke.py
python=${PYTHON:-python3}
# Where the image of the command line has an older Python, its own is new enough.
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  python=$(gcloud info --format='value(basic.python_location)')

# A line for each share or tag: revision, percent, tag, address.
traffic() {
  gcloud run services describe "$service" --region="$region" --flatten='status.traffic[]' \
    --format='csv[no-heading](status.traffic.revisionName,status.traffic.percent,status.traffic.tag,status.traffic.url)'
}

send_to() {
  gcloud run services update-traffic "$service" --region="$region" --quiet --to-revisions="$1"
}

# Not in the foreground: the shell would act on a signal only after it.
waiting() { "$@" & wait $!; }

check() { waiting "$python" "$smoke" "$1" --wait 300; }

check_tag() { [[ ${ADDRESS:-} ]] || check "$canary"; }

before=''
go_back() {
  local status=$? job
  for job in $(jobs -pr); do kill "$job"; done
  if ((status)) && [[ $before ]]; then
    echo "The new revision does not take over: the traffic goes back to $before." >&2
    send_to "$before"
  fi
  exit "$status"
}
trap go_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

address() { gcloud run services describe "$service" --region="$region" --format='value(status.url)'; }

if ! existing=$(address 2>&1); then
  [[ $existing == *"Cannot find service ["* ]] || { echo "$existing" >&2 && exit 1; }
  existing=''
fi
if [[ ! $existing ]]; then
  gcloud run deploy "$service" --region="$region" --quiet "$@"
  check "${ADDRESS:-$(address)}"
  exit
fi

serving=$(traffic | awk -F, '$2 > 0 { printf "%s%s=%s", comma, $1, $2; comma = "," }')
if [[ $serving == *,* ]]; then
  echo "The traffic is split ($serving): another deployment runs, or one was cut off. Then:" >&2
  echo "gcloud run services update-traffic $service --region=$region --to-revisions=REVISION=100" >&2
  exit 1
fi
before=$serving
gcloud run deploy "$service" --region="$region" --quiet --no-traffic --tag=canary "$@"
IFS=, read -r revision _ _ canary < <(traffic | awk -F, '$3 == "canary"')
check_tag
send_to "$revision=$percent"
waiting sleep "$bake"
check_tag
check "${ADDRESS:-$(address)}"
send_to "$revision=100"
check "${ADDRESS:-$(address)}"
gcloud run services update-traffic "$service" --region="$region" --quiet --remove-tags=canary
before=''
echo "$revision serves. Back: gcloud run services update-traffic $service --region=$region --to-revisions=$serving"
