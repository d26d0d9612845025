#!/usr/bin/env bash
# Stands in for gcloud: keeps what is created as files in $STATE, and writes down each change.
shopt -s extglob
words=() member='' role='' secret='' filter='' flags_file='' verb='' to=''
for word; do
  case $word in
    --member=*) member=${word#*=} member=${member//\//_} ;;
    --role=*) role=${word#*=} ;;
    --secret=*) secret=${word#*=} ;;
    --filter=*) filter=${word#*=} ;;
    --flags-file=*) flags_file=${word#*=} ;;
    --to-revisions=*) to=${word#*=} ;;
    --*) ;;
    describe | create | delete | add-iam-policy-binding | get-iam-policy | remove-iam-policy-binding) verb=$word ;;
    *) words+=("$word") ;;
  esac
done
key="${words[*]%@*}"
file=$STATE/${key//[ \/:]/_}
if [[ -s $STATE/unavailable && "$*" =~ $(<"$STATE/unavailable") ]]; then
  echo 'ERROR: (gcloud) UNAVAILABLE: The service is currently unavailable.' >&2
  exit 1
fi
changed() { printf '%s\n' "$*" >>"$STATE/changes"; }
case "$key $verb" in
  'services list '*) [[ -e $STATE/apis ]] && printf '%s\n' "$(<"$STATE/apis")" ;;
  'services enable '*) changed "$@" && printf '%s\n' "${words[@]:2}" >"$STATE/apis" ;;
  'secrets versions latest describe') [[ -e $STATE/value-$secret ]] && echo 1 ;;
  'secrets versions add '*) changed "$@" && { read -r -d '' value; printf %s "$value" >"$STATE/value-${words[3]}"; } ;;
  'sql users list '*) [[ -e $STATE/sql_users_weir ]] && echo weir ;;
  'sql users set-password '*) changed "$@" && printf %s "$(<"$flags_file")" >"$STATE/password" ;;
  'sql users weir create') changed "$@" && : >"$file" && printf %s "$(<"$flags_file")" >"$STATE/password" ;;
  'sql instances list '*) [[ -e $STATE/sql_instances_weir ]] && echo weir ;;
  'sql instances patch '*) changed "$@" ;;
  'storage rm '*) changed "$@" && rm "$STATE/storage_buckets_${words[2]//[ \/:]/_}" ;;
  *' get-certificate-authority '*) echo '{"managedServerCa": {"caCerts": [{"certificates": ["-----BEGIN CERTIFICATE-----"]}]}}' ;;
  *' get-iam-policy') [[ $filter =~ role=(.*)' AND bindings.members='(.*) ]] && [[ -e $file-${BASH_REMATCH[1]//\//_}-${BASH_REMATCH[2]//\//_} ]] && echo bound ;;
  *' add-iam-policy-binding') changed "$@" && : >"$file-${role//\//_}-$member" ;;
  *' remove-iam-policy-binding') changed "$@" && rm "$file-${role//\//_}-$member" ;;
  'memorystore instances weir describe')
    [[ -e $file ]] && echo '{"endpoints": [{"connections": [
      {"pscAutoConnection": {"connectionType": "CONNECTION_TYPE_READER", "ipAddress": "10.8.0.3", "port": 6379}},
      {"pscAutoConnection": {"connectionType": "CONNECTION_TYPE_PRIMARY", "ipAddress": "10.8.0.2", "port": 6379}}]}]}' ;;
  'run services weir describe')
    case " $* " in
      *traffic*) [[ -e $STATE/traffic ]] && printf '%s\n' "$(<"$STATE/traffic")" ;;
      *) [[ -e $STATE/traffic || -e $file ]] && echo https://weir.example ;;
    esac ;;
  'run deploy weir '*)
    changed "$@"
    if [[ -e $STATE/traffic ]]; then
      printf 'weir-2,,canary,https://canary.example\n' >>"$STATE/traffic"
    else
      printf 'weir-1,100,,https://weir.example\n' >"$STATE/traffic"
    fi ;;
  'run services update-traffic '*) changed "${to:-$*}" ;;
  "projects "*' describe') echo 123 ;;
  'iam workload-identity-pools weir-github describe')
    # What was removed is still described.
    [[ -e $file ]] && case "$*" in *state*) echo "$(<"$file")" ;; *) echo weir-github ;; esac ;;
  'iam workload-identity-pools weir-github create') changed "$@" && echo ACTIVE >"$file" ;;
  'iam workload-identity-pools weir-github delete') changed "$@" && echo DELETED >"$file" ;;
  'iam workload-identity-pools undelete '*) changed "$@" && echo ACTIVE >"$STATE/iam_workload-identity-pools_weir-github" ;;
  'iam workload-identity-pools providers create-oidc '*) changed "$@" && : >"$STATE/iam_workload-identity-pools_providers_github" ;;
  *' describe') [[ -e $file ]] && echo "$key" ;;
  *' create') changed "$@" && : >"$file" ;;
  *' delete') changed "$@" && rm "$file" ;;
  *) echo "The stand-in does not know: $*" >&2 && exit 2 ;;
esac
code=$?
case "$verb $*" in
  get-iam-policy* | *' list '*) code=0 ;; # Finding nothing is no failure.
  describe*)
    # gcloud's own words for what is not there.
    if ((code)); then
      case $key in
        run*) echo "ERROR: (gcloud) Cannot find ${words[1]%s} [${words[2]}]" ;;
        sql*) echo 'ERROR: (gcloud) HTTPError 404: Not Found' ;;
        storage*) echo "ERROR: (gcloud) ${words[2]} not found: 404." ;;
        compute*) printf "ERROR: (gcloud) Could not fetch resource:\n - The resource '%s' was not found\n" "$key" ;;
        *) echo "ERROR: (gcloud) NOT_FOUND: $key" ;;
      esac >&2
    fi ;;
esac
exit "$code"
