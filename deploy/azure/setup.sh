#!/usr/bin/env bash
# Creates in a resource group of Azure what Weir needs there. It may be run again: secrets are made
# at the first time only. `az group delete` removes all of it.
#
#     deploy/azure/setup.sh GROUP LOCATION [NAME=VALUE…]
#
# NAME=VALUE are parameters of infrastructure.bicep, such as redisSku=Balanced_B1. OPENAI_API_KEY in the
# environment is stored as a secret. The key of the smoke test is printed at its first run.
set -euo pipefail

group=${1:?which resource group?} location=${2:?where?}
shift 2
here=$(dirname "$0")

random() { openssl rand -hex "$1"; }

az group create --name "$group" --location "$location" --output none
parameters=$(mktemp)
trap 'rm -f "$parameters"' EXIT
key=''
stored=$(az resource list --resource-group "$group" --resource-type Microsoft.KeyVault/vaults \
  --query '[0].id' --output tsv)
absent=3 # what az ends with if there is no such resource
status=$absent
if [[ $stored ]]; then
  status=0
  az resource show --ids "$stored/secrets/weir-database-url" --api-version 2024-11-01 \
    --output none || status=$?
fi
# Any other failure says nothing of the secrets, and they must not be replaced.
((status == 0 || status == absent)) || exit "$status"
if ((status == absent)); then
  key=$(random 24)
  # In a file of one's own: others could see arguments.
  cat >"$parameters" <<END
{
  "\$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {
    "databasePassword": {"value": "$(random 24)"},
    "secretKey": {"value": "$(random 32)"},
    "adminPassword": {"value": "$(random 12)"},
    "apiKeys": {"value": "Smoke test:premium:$key"},
    "openaiApiKey": {"value": "${OPENAI_API_KEY:-}"}
  }
}
END
  set -- "@$parameters" "$@"
fi
az deployment group create --resource-group "$group" --name weir-infrastructure \
  --template-file "$here/infrastructure.bicep" ${1+--parameters "$@"} --output none
[[ ! $key ]] || echo "WEIR_API_KEY=$key"
