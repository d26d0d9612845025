#!/usr/bin/env bash
# Creates in a Google Cloud project what Weir needs there, or removes it. What exists is left as it is.
#
#     deploy/gcp/setup.sh --project PROJECT [--region REGION] [--dry-run]
#     deploy/gcp/setup.sh --project PROJECT [--region REGION] --remove [--dry-run]
#
# --dry-run prints each command that would change something, and runs none of them; it looks at what
# exists if you are logged in. OPENAI_API_KEY in the environment is stored as a secret. Sizes:
# SQL_TIER, SQL_EDITION, SQL_CONNECTIONS, SQL_AVAILABILITY, REDIS_NODE, REDIS_REPLICAS. With
# GITHUB_REPOSITORY_ID and GITHUB_ENVIRONMENT, that environment of that repository may deploy.
set -euo pipefail
((BASH_VERSINFO[0] >= 5)) || { echo "This needs bash 5: use Cloud Shell, or install it." >&2 && exit 2; }

region=europe-west1 project='' dry_run='' remove=''
while (($#)); do
  case $1 in
    --project) project=${2:?} && shift ;;
    --region) region=${2:?} && shift ;;
    --dry-run) dry_run=yes ;;
    --remove) remove=yes ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
  shift
done
[[ $project ]] || { echo "Which project? --project PROJECT" >&2 && exit 2; }

sql_tier=${SQL_TIER:-db-custom-2-7680}
sql_edition=${SQL_EDITION:-enterprise}
# 100 instances with one worker of at most 10 connections each, and some for people.
sql_connections=${SQL_CONNECTIONS:-1100}
sql_availability=${SQL_AVAILABILITY:-zonal}
redis_node=${REDIS_NODE:-standard-small}
redis_replicas=${REDIS_REPLICAS:-0}

runner=weir-run@$project.iam.gserviceaccount.com
builder=weir-build@$project.iam.gserviceaccount.com
deployer=weir-github@$project.iam.gserviceaccount.com
bucket=gs://$project-weir-build
secrets=(weir-secret-key weir-admin-password weir-database-url weir-redis-url weir-openai-api-key
  weir-api-keys weir-smoke-key weir-redis-ca)
apis=(artifactregistry cloudbuild compute logging memorystore networkconnectivity run secretmanager
  serviceconsumermanagement sqladmin)
[[ ! ${GITHUB_REPOSITORY_ID:-} ]] || apis+=(iam iamcredentials sts)
# Cloud Build makes the service public, once: that is what admin may and developer may not.
builder_roles=(roles/run.admin roles/logging.logWriter)

cloud() { gcloud --project="$project" --quiet "$@"; }

# Runs a command that changes something, or prints it.
change() {
  if [[ $dry_run ]]; then
    printf 'gcloud'
    printf ' %q' --project="$project" --quiet "$@"
    printf '\n'
  else
    echo "+ gcloud $*" >&2
    cloud "$@"
  fi
}

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# Whether a command that only looks finds something. Only what gcloud says is missing counts as such:
# a look that failed would replace secrets.
found() {
  local answer
  if answer=$(cloud "$@" 2>"$work/errors"); then
    [[ $answer ]]
  elif [[ $dry_run ]] || grep -Eq "$absent" "$work/errors"; then
    return 1
  else
    cat "$work/errors" >&2
    echo "It is not known whether this exists. Run this again." >&2
    exit 1
  fi
}
absent="NOT_FOUND|HTTPError 404|not found: 404|Cannot find (service|job) \\[|The resource '.*' was not found"

# Creates what `describe` does not find: a group of commands (in one word), a name, options of both,
# then --, options of `create`.
ensure() {
  local group name=$2 both=()
  read -ra group <<<"$1"
  shift 2
  while [[ $1 != -- ]]; do both+=("$1") && shift; done
  shift
  found "${group[@]}" describe "$name" "${both[@]}" --format='value(name)' && return
  # Of accounts, only `create` wants the part before the @.
  change "${group[@]}" create "${name%@*}" "${both[@]}" "$@"
}

# Deletes what `describe` finds.
drop() {
  local group name=$2
  read -ra group <<<"$1"
  shift 2
  found "${group[@]}" describe "$name" "$@" --format='value(name)' || return 0
  change "${group[@]}" delete "$name" "$@"
}

has_value() { found secrets versions describe latest --secret="$1" --format='value(name)'; }

# Stores stdin as a secret's value. Values never are arguments: others could see those.
store() {
  if [[ $dry_run ]]; then cat >/dev/null; fi
  change secrets versions add "$1" --data-file=-
}

random() { openssl rand -hex "$1"; }

bound() {  # whether a member has a role: group, name, options, then --, member, role
  local where=()
  while [[ $1 != -- ]]; do where+=("$1") && shift; done
  found "${where[@]/#add-iam-policy-binding/get-iam-policy}" --flatten='bindings[].members' \
    --filter="bindings.role=$3 AND bindings.members=$2" --format='value(bindings.role)'
}

bind() {  # as bound, and gives it the role if it has not
  bound "$@" && return
  local where=()
  while [[ $1 != -- ]]; do where+=("$1") && shift; done
  change "${where[@]}" --member="$2" --role="$3" --condition=None --format='value(etag)'
}

create_network() {
  ensure 'compute networks' weir -- --subnet-mode=custom
  # Cloud Run takes up to two addresses for each instance, and keeps them for a while.
  ensure 'compute networks subnets' weir --region="$region" -- \
    --network=weir --range=10.8.0.0/22 --enable-private-ip-google-access
  # Lets Memorystore put its endpoints into the subnet.
  ensure 'network-connectivity service-connection-policies' weir-redis --region="$region" -- \
    --network="projects/$project/global/networks/weir" --service-class=gcp-memorystore \
    --subnets="projects/$project/regions/$region/subnetworks/weir"
}

create_accounts() {
  ensure 'iam service-accounts' "$runner" -- --display-name='Weir on Cloud Run'
  ensure 'iam service-accounts' "$builder" -- --display-name='Builds and deploys Weir'
  bind projects add-iam-policy-binding "$project" -- "serviceAccount:$runner" roles/cloudsql.client
  for role in "${builder_roles[@]}"; do
    bind projects add-iam-policy-binding "$project" -- "serviceAccount:$builder" "$role"
  done
  bind iam service-accounts add-iam-policy-binding "$runner" -- \
    "serviceAccount:$builder" roles/iam.serviceAccountUser
  ensure 'artifacts repositories' weir --location="$region" -- --repository-format=docker \
    --immutable-tags
  bind artifacts repositories add-iam-policy-binding weir --location="$region" -- \
    "serviceAccount:$builder" roles/artifactregistry.writer
  ensure 'storage buckets' "$bucket" -- --location="$region" --uniform-bucket-level-access \
    --public-access-prevention
  bind storage buckets add-iam-policy-binding "$bucket" -- \
    "serviceAccount:$builder" roles/storage.objectViewer
}

# GitHub's tokens in place of a key. Ids are compared, as names can be given to others.
create_github() {
  [[ ${GITHUB_REPOSITORY_ID:-} ]] || return 0
  local number subject=$GITHUB_REPOSITORY_ID:${GITHUB_ENVIRONMENT:?which environment?}
  local pool=(iam workload-identity-pools) provider=(iam workload-identity-pools providers)
  local at=(--location=global --workload-identity-pool=weir-github)
  if ! number=$(cloud projects describe "$project" --format='value(projectNumber)'); then
    [[ $dry_run ]] || exit 1
    number=NUMBER
  fi
  ensure 'iam service-accounts' "$deployer" -- --display-name='Deploys Weir from GitHub'
  # It may not make a service public, as the builder may.
  bind projects add-iam-policy-binding "$project" -- "serviceAccount:$deployer" roles/run.developer
  bind iam service-accounts add-iam-policy-binding "$runner" -- \
    "serviceAccount:$deployer" roles/iam.serviceAccountUser
  bind artifacts repositories add-iam-policy-binding weir --location="$region" -- \
    "serviceAccount:$deployer" roles/artifactregistry.writer
  ensure 'iam workload-identity-pools' weir-github --location=global --
  # A pool that was removed keeps its name, and its provider, for 30 days.
  if [[ $(cloud "${pool[@]}" describe weir-github --location=global --format='value(state)' \
    2>/dev/null) == DELETED ]]; then
    change "${pool[@]}" undelete weir-github --location=global
  fi
  found "${provider[@]}" describe github "${at[@]}" --format='value(name)' ||
    change "${provider[@]}" create-oidc github "${at[@]}" \
      --issuer-uri=https://token.actions.githubusercontent.com \
      --attribute-mapping="google.subject=assertion.repository_id + ':' + assertion.environment" \
      --attribute-condition="assertion.repository_id == '$GITHUB_REPOSITORY_ID' && assertion.environment == '$GITHUB_ENVIRONMENT'"
  bind iam service-accounts add-iam-policy-binding "$deployer" -- \
    "principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/weir-github/subject/$subject" \
    roles/iam.workloadIdentityUser
  echo "GCP_PROVIDER is projects/$number/locations/global/workloadIdentityPools/weir-github/providers/github" >&2
}

create_secrets() {
  for name in "${secrets[@]}"; do
    ensure secrets "$name" -- --replication-policy=automatic
    local reader=$runner
    [[ $name != weir-smoke-key ]] || reader=$builder
    bind secrets add-iam-policy-binding "$name" -- \
      "serviceAccount:$reader" roles/secretmanager.secretAccessor
  done
  has_value weir-secret-key || random 32 | store weir-secret-key
  has_value weir-admin-password || random 12 | store weir-admin-password
  # The key of the smoke test: known to Weir by API_KEYS, to Cloud Build by itself.
  if ! has_value weir-api-keys; then
    local key
    key=$(random 24)
    printf %s "$key" | store weir-smoke-key
    printf 'Smoke test:premium:%s' "$key" | store weir-api-keys
  fi
  if [[ ${OPENAI_API_KEY:-} ]]; then
    has_value weir-openai-api-key || printf %s "$OPENAI_API_KEY" | store weir-openai-api-key
  elif ! has_value weir-openai-api-key; then
    echo "No OPENAI_API_KEY was given: deploy with --substitutions=_PROVIDER= to answer offline." >&2
  fi
}

# `describe` says "or you are not authorized" of an instance that is missing.
has_sql() { found sql instances list --filter=name=weir --format='value(name)'; }

create_database() {
  # A public address, but no network is admitted: only connectors get in, by IAM and TLS.
  has_sql || change sql instances create weir --region="$region" --database-version=POSTGRES_17 \
    --edition="$sql_edition" --tier="$sql_tier" --availability-type="$sql_availability" \
    --storage-auto-increase --storage-size=20 --backup-start-time=03:00 \
    --enable-point-in-time-recovery --connector-enforcement=REQUIRED --ssl-mode=ENCRYPTED_ONLY \
    --database-flags="max_connections=$sql_connections" --deletion-protection
  ensure 'sql databases' weir --instance=weir --
  has_value weir-database-url && return
  local password verb=create
  password=$(random 24)
  # It exists if a run before this one was cut off before it stored the URL.
  found sql users list --instance=weir --filter=name=weir --format='value(name)' && verb=set-password
  local flags=$work/flags
  printf -- '--password: "%s"\n' "$password" >"$flags"
  change sql users "$verb" weir --instance=weir --flags-file="$flags"
  printf 'postgresql://weir:%s@/weir?host=/cloudsql/%s:%s:weir' "$password" "$project" "$region" |
    store weir-database-url
}

create_redis() {
  ensure 'memorystore instances' weir --location="$region" -- --mode=cluster-disabled --shard-count=1 \
    --node-type="$redis_node" --replica-count="$redis_replicas" --engine-version=VALKEY_8_0 \
    --engine-configs=maxmemory-policy=volatile-lru --transit-encryption-mode=server-authentication \
    --psc-auto-connections="network=projects/$project/global/networks/weir,projectId=$project"
  local fact
  if ! has_value weir-redis-ca; then
    fact=$(redis_facts ca)
    printf '%s\n' "$fact" | store weir-redis-ca
  fi
  has_value weir-redis-url && return
  fact=$(redis_facts address)
  # The instance has an authority of its own, and its certificate need not name its address.
  printf 'rediss://%s/0?ssl_ca_certs=/etc/weir/redis/ca.pem&ssl_check_hostname=false' "$fact" |
    store weir-redis-url
}

redis_facts() {
  if [[ $dry_run ]]; then
    echo "($1 of the instance)"
  elif [[ $1 == ca ]]; then
    cloud memorystore instances get-certificate-authority weir --location="$region" --format=json |
      python3 -c 'import json, sys
for authority in json.load(sys.stdin)["managedServerCa"]["caCerts"]:
    print(*authority["certificates"], sep="\n")'
  else
    cloud memorystore instances describe weir --location="$region" --format=json |
      python3 -c 'import json, sys
for endpoint in json.load(sys.stdin)["endpoints"]:
    for connection in endpoint["connections"]:
        found = connection["pscAutoConnection"]
        if found["connectionType"] == "CONNECTION_TYPE_PRIMARY":
            sys.exit(print(found["ipAddress"], found.get("port", 6379), sep=":"))
sys.exit("Memorystore names no address yet: run this again.")'
  fi
}

enable_apis() {
  local enabled missing=()
  enabled=$(cloud services list --enabled --format='value(config.name)' 2>/dev/null || true)
  for api in "${apis[@]}"; do
    grep -qx "$api.googleapis.com" <<<"$enabled" || missing+=("$api.googleapis.com")
  done
  ((${#missing[@]} == 0)) || change services enable "${missing[@]}"
}

remove_everything() {
  if [[ ! $dry_run ]]; then
    read -rp "This deletes Weir with its database, and its backups, from $project. Its name? " answer
    [[ $answer == "$project" ]] || { echo "Nothing was deleted." >&2 && exit 1; }
  fi
  drop 'run services' weir --region="$region"
  drop 'run jobs' weir-migrate --region="$region"
  if has_sql; then
    change sql instances patch weir --no-deletion-protection
    change sql instances delete weir
  fi
  drop 'memorystore instances' weir --location="$region"
  drop 'network-connectivity service-connection-policies' weir-redis --region="$region"
  for name in "${secrets[@]}"; do drop secrets "$name"; done
  drop 'artifacts repositories' weir --location="$region"
  if found storage buckets describe "$bucket" --format='value(name)'; then
    change storage rm --recursive "$bucket"
  fi
  unbind "serviceAccount:$runner" roles/cloudsql.client
  for role in "${builder_roles[@]}"; do unbind "serviceAccount:$builder" "$role"; done
  unbind "serviceAccount:$deployer" roles/run.developer
  if [[ $(cloud iam workload-identity-pools describe weir-github --location=global \
    --format='value(state)' 2>/dev/null) != DELETED ]]; then
    drop 'iam workload-identity-pools' weir-github --location=global
  fi
  drop 'iam service-accounts' "$deployer"
  drop 'iam service-accounts' "$runner"
  drop 'iam service-accounts' "$builder"
  # Cloud Run gives its addresses back an hour or two after its service is gone.
  drop 'compute networks subnets' weir --region="$region" ||
    { echo "Cloud Run still holds addresses: run this again in two hours." >&2 && exit 1; }
  drop 'compute networks' weir
  [[ $dry_run ]] || echo "Removed. The APIs stay enabled; they cost nothing." >&2
}

unbind() {
  bound projects add-iam-policy-binding "$project" -- "$1" "$2" || return 0
  change projects remove-iam-policy-binding "$project" --member="$1" --role="$2" \
    --condition=None --format='value(etag)'
}

if [[ $remove ]]; then
  remove_everything
else
  enable_apis
  create_network
  create_accounts
  create_github
  create_secrets
  create_database
  create_redis
fi
