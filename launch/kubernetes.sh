#!/usr/bin/env bash
# An experiment on the GPUs of any Kubernetes cluster: an indexed Job with a pod a node, and a headless Service by which
# the pods find each other.
#
#     bash launch/kubernetes.sh --name=bert --image=REGISTRY/bertjax:1.0 [--nodes=2] [--gpus=8] [--claim=PVC]
#                               [--restarts=100] [--dry_run] NAME [flags of the experiment]
#
# --image is built from launch/Dockerfile. --claim is a volume claim that all pods can write: it is mounted at /data,
# where the workdir is put unless there is a --workdir. Nothing is reachable from outside the cluster.
# Logs: kubectl logs --selector=job-name=bert --prefix --follow        Stop: kubectl delete job,service bert
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

name="" image="" nodes=1 gpus=8 claim="" restarts=100
take_options "name image nodes gpus claim restarts" "$@"
required name image
check_name "$name"
check_image "$image"
for option in nodes gpus restarts; do check_number "$option"; done
take_experiment /data/runs

# $(INDEX) is for Kubernetes to expand: the index of the pod.
words=$(kubernetes_words python -m "$module" "${flags[@]}" "--coordinator=$name-0.$name:8476" "--processes=$nodes")
# shellcheck disable=SC2016
words="${words%]}, \"--process=\$(INDEX)\"]"
manifest=$(render launch/kubernetes.yaml "name=$name" "image=$(json_string "$image")" "nodes=$nodes" "gpus=$gpus" \
    "failures=$((restarts * nodes))" "command=$words" \
    "volume=${claim:+, {name: data, persistentVolumeClaim: {claimName: $(json_string "$claim")\}\}}" \
    "mount=${claim:+, {name: data, mountPath: /data\}}")
printf '%s\n' "$manifest"
run kubectl apply --filename=- <<<"$manifest"
