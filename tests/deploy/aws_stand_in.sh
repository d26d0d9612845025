#!/usr/bin/env bash
# Stands in for aws: writes down each command that changes something, and answers from $STATE.
changed() { printf '%s\n' "$*" >>"$STATE/changes"; }
answer() { printf '%s\n' "$(<"$STATE/$1")"; }
# The first of the lines that are left, and the last one again and again.
next() {
  head -n 1 "$STATE/$1"
  (($(wc -l <"$STATE/$1") == 1)) || sed -i 1d "$STATE/$1"
}
case "$*" in
  *' list-service-deployments '*) answer running ;;
  *' describe-service-deployments '*) next states ;;
  *' describe-services '*-worker*) answer worker ;;
  *' describe-services '*) answer serving ;;
  *' describe-task-definition '*weir-worker*) answer worker-definition ;;
  *' describe-task-definition '*) answer definition ;;
  *' register-task-definition '*)
    [[ $* =~ file://([^ ]+) ]] && registered=$(<"${BASH_REMATCH[1]}")
    [[ $registered =~ \"family\":\ \"([a-z-]+)\" ]] && family=${BASH_REMATCH[1]}
    printf '%s' "$registered" >"$STATE/registered-$family"
    echo "arn:aws:ecs:r:1:task-definition/$family:8" ;;
  *' wait services-stable '*)
    [[ -e $STATE/worker-fails ]] || printf 'arn:aws:ecs:r:1:task-definition/weir-worker:8\n' >"$STATE/worker" ;;
  *' update-service '*)
    [[ $* =~ --task-definition\ ([^ ]+) ]] && changed "update ${BASH_REMATCH[1]##*/}"
    [[ ! -e $STATE/refuses ]] && echo arn:of:deployment >"$STATE/running" ;;
  *' stop-service-deployment '*) changed stop "${*: -3:1}" && echo ROLLBACK_SUCCESSFUL >"$STATE/states" ;;
  *) echo "The stand-in does not know: $*" >&2 && exit 2 ;;
esac
