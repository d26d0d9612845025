#!/usr/bin/env bash
# Deploys an image of Weir to its service on ECS, in the way that the service is configured for: in
# turns, or by canary. Where that or the smoke test fails, the version before serves again.
#
#     AWS_REGION=… WEIR_API_KEY=weir_… deploy/aws/deploy.sh IMAGE ADDRESS
#
# IMAGE is in a repository that the service's tasks may pull from. SERVICE (weir) is also the cluster's
# name. PYTHON (3.11 or newer).
set -euo pipefail

image=${1:?which image?} address=${2:?where do clients reach this Weir?}
service=${SERVICE:-weir} python=${PYTHON:-python3} poll=${POLL_SECONDS:-15}
: "${WEIR_API_KEY:?the key of the smoke test}"
smoke=$(dirname "$0")/../../scripts/smoke.py

check() { "$python" "$smoke" "$address" --wait 300; }

ecs() { aws ecs "$@" --output text; }

# The deployment that has not ended.
running() {
  ecs list-service-deployments --cluster "$service" --service "$service" \
    --status PENDING IN_PROGRESS STOP_REQUESTED ROLLBACK_REQUESTED ROLLBACK_IN_PROGRESS \
    --query 'serviceDeployments[].serviceDeploymentArn'
}

# The status and the stage of a deployment.
state() {
  ecs describe-service-deployments --service-deployment-arns "$deployment" \
    --query 'serviceDeployments[0].[status, lifecycleStage]'
}

update() {
  ecs update-service --cluster "$service" --service "$service" --task-definition "$1" \
    --query service.taskDefinition
  deployment=''
  for _ in {1..20}; do
    deployment=$(running)
    [[ ! $deployment ]] || return 0
    sleep "$poll"
  done
  echo "ECS began no deployment." >&2
  return 1
}

# Waits until the deployment has ended. In a canary, all traffic goes to the new version for a while
# in which the one before is kept: the smoke test runs then, as going back is quick.
finish() {
  local answer stage tested=${1:-}
  while answer=$(state); do
    read -r status stage <<<"$answer"
    case $status in
      SUCCESSFUL) return ;;
      STOPPED | ROLLBACK_SUCCESSFUL | ROLLBACK_FAILED)
        echo "The deployment ended as $status." >&2
        return 1
        ;;
    esac
    if [[ $status == IN_PROGRESS && $stage == BAKE_TIME && ! $tested ]]; then
      check
      tested=yes
    fi
    sleep "$poll"
  done
  echo "ECS does not say how the deployment goes." >&2
  return 1
}

# Registers a definition again, with the new image, and without what ECS has added.
with_image() {
  aws ecs describe-task-definition --task-definition "$1" --query taskDefinition --output json |
    "$python" -c 'import json, sys
definition = json.load(sys.stdin)
for name in ("taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities",
             "registeredAt", "registeredBy"):
    definition.pop(name, None)
(container,) = (one for one in definition["containerDefinitions"] if one["name"] == "weir")
container["image"] = sys.argv[1]
json.dump(definition, sys.stdout)' "$image" |
    ecs register-task-definition --cli-input-json file:///dev/stdin \
      --query taskDefinition.taskDefinitionArn
}

# Both versions may work at once, so the workers follow when the new one stays.
update_workers() {
  local workers=$service-worker worked new_worker
  worked=$(ecs describe-services --cluster "$service" --services "$workers" \
    --query "services[?status=='ACTIVE'] | [0].taskDefinition")
  [[ $worked != None ]] || return 0
  new_worker=$(with_image "$worked")
  ecs update-service --cluster "$service" --service "$workers" --task-definition "$new_worker" \
    --query service.taskDefinition
  ecs wait services-stable --cluster "$service" --services "$workers"
  # ECS goes back by itself where the tasks do not stay up.
  [[ $(ecs describe-services --cluster "$service" --services "$workers" \
    --query 'services[0].taskDefinition') == "$new_worker" ]] || {
    echo "ECS took $new_worker back; $new serves." >&2
    return 1
  }
}

before='' deployment='' status=''
go_back() {
  local code=$?
  trap - EXIT
  if ((code)) && [[ $before ]]; then
    echo "The new version does not stay: back to $before." >&2
    case $status in
      STOPPED | ROLLBACK_SUCCESSFUL | ROLLBACK_FAILED) ;;
      SUCCESSFUL) update "$before" && finish tested ;;
      *)
        [[ $deployment ]] || deployment=$(running)
        if [[ $deployment ]]; then
          ecs stop-service-deployment --service-deployment-arn "$deployment" --stop-type ROLLBACK
          # It ends as rolled back, which is no success.
          finish tested || true
        fi
        ;;
    esac
  fi
  exit "$code"
}
trap go_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

other=$(running)
if [[ $other ]]; then
  echo "Another deployment runs: $other" >&2
  exit 1
fi
serving=$(ecs describe-services --cluster "$service" --services "$service" \
  --query 'services[0].taskDefinition')
new=$(with_image "$serving")
before=$serving
update "$new"
finish
check
before=''
update_workers
echo "$new serves. Back: aws ecs update-service --cluster $service --service $service --task-definition $serving"
