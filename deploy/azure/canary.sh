#!/usr/bin/env bash
# Deploys an image of Weir to Azure Container Apps beside the revision that serves, and lets it take
# over if it passes the smoke test; otherwise the traffic goes back to where it was.
#
#     WEIR_API_KEY=weir_… deploy/azure/canary.sh GROUP IMAGE
#
# PERCENT of the traffic (10) goes to the new revision for BAKE_SECONDS (120), then all of it.
# APP (weir), PYTHON (3.11 or newer).
set -euo pipefail

group=${1:?which resource group?} image=${2:?which image?}
app=${APP:-weir} percent=${PERCENT:-10} bake=${BAKE_SECONDS:-120}
: "${WEIR_API_KEY:?the key of the smoke test}"
smoke=$(dirname "$0")/../../scripts/smoke.py

# Not in the foreground: the shell would act on a signal only after it.
waiting() { "$@" & wait $!; }

check() { waiting "${PYTHON:-python3}" "$smoke" "$1" --wait 300; }

show() { az containerapp show --resource-group "$group" --name "$app" --query "$1" --output tsv; }

send_to() {
  az containerapp ingress traffic set --resource-group "$group" --name "$app" --output none \
    --revision-weight "$@"
}

revision() {
  local verb
  read -ra verb <<<"$1"
  az containerapp revision "${verb[@]}" --resource-group "$group" --name "$app" --output none "${@:2}"
}

before='' created=''
go_back() {
  local status=$? job
  for job in $(jobs -pr); do kill "$job"; done
  if ((status)) && [[ $before ]]; then
    echo "The new revision does not take over: the traffic goes back to $before." >&2
    if [[ $created ]]; then
      send_to "$before=100" "$created=0"
      # Its replicas would go on, and cost.
      revision 'label remove' --label canary || true
      revision deactivate --revision "$created"
    else
      send_to "$before=100"
    fi
  fi
  exit "$status"
}
trap go_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

az containerapp job update --resource-group "$group" --name weir-migrate --image "$image" --output none
execution=$(az containerapp job start --resource-group "$group" --name weir-migrate \
  --query name --output tsv)
for _ in {1..120}; do
  status=$(az containerapp job execution show --resource-group "$group" --name weir-migrate \
    --job-execution-name "$execution" --query properties.status --output tsv)
  [[ $status == Running || $status == Processing || $status == Unknown ]] || break
  sleep 5
done
[[ $status == Succeeded ]] || { echo "The migration ended as $status." >&2 && exit 1; }

# A weight of the newest revision would move with it: give it to the one that has it now.
latest=$(show properties.latestReadyRevisionName)
serving=$(show "properties.configuration.ingress.traffic[?weight > \`0\`].join('=', [revisionName || '$latest', to_string(weight)])")
if [[ $serving == *$'\n'* ]]; then
  echo "The traffic is split (${serving//$'\n'/, }): another deployment runs, or one was cut off. Then:" >&2
  echo "az containerapp ingress traffic set --resource-group $group --name $app --revision-weight REVISION=100" >&2
  exit 1
fi
before=${serving%=*}
send_to "$before=100"

suffix=$(date -u +%Y%m%d-%H%M%S)
az containerapp update --resource-group "$group" --name "$app" --image "$image" \
  --revision-suffix "v$suffix" --output none
created=$app--v$suffix
revision 'label add' --label canary --revision "$created" --no-prompt
address=$(show properties.configuration.ingress.fqdn)
canary=https://$app---canary.${address#*.}
check "$canary"
send_to "$before=$((100 - percent))" "$created=$percent"
waiting sleep "$bake"
check "$canary"
check "https://$address"
send_to "$before=0" "$created=100"
check "https://$address"
revision 'label remove' --label canary
former=$before before=''
# It takes no more requests, and finishes those that it has.
revision deactivate --revision "$former"
echo "$created serves. Back: az containerapp revision activate --resource-group $group --name $app --revision $former"
echo "and: az containerapp ingress traffic set --resource-group $group --name $app --revision-weight $former=100 $created=0"
