#!/usr/bin/env bash
# An experiment on the TPUs of a GKE cluster, as a JobSet: one Job for every slice, one pod for every host.
#
#     bash launch/gke.sh --name=bert --image=REGISTRY/bertjax:1.0 [--type=v5e] [--topology=4x4] [--slices=1]
#                        [--claim=PVC] [--restarts=100] [--dry_run] NAME [flags of the experiment]
#     bash launch/gke.sh --with=xpk --name=bert --image=... --cluster=C --zone=Z ...      the same, submitted by xpk
#
# --image is built from launch/Dockerfile. --claim is a volume claim that all pods can write (Filestore, Cloud
# Storage): it is mounted at /data, where the workdir is put unless there is a --workdir. The cluster needs the JobSet
# controller and a node pool of that type and topology. Nothing is reachable from outside the cluster.
# Logs: kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=bert --prefix --follow
# Stop: kubectl delete jobset bert
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

with=kubectl name="" image="" type=v5e topology=4x4 slices=1 chips=4 claim="" restarts=100 cluster="" zone="" project=""
take_options "with name image type topology slices chips claim restarts cluster zone project" "$@"
required name image
check_name "$name"
check_image "$image"
for option in slices chips restarts; do check_number "$option"; done
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology=$topology: write it as 4x4 or 2x2x4"
take_experiment /data/runs

case $type in
v4) accelerator=tpu-v4-podslice generation=v4 cores=2 ;;
v5e) accelerator=tpu-v5-lite-podslice generation=v5litepod cores=1 ;;
v5p) accelerator=tpu-v5p-slice generation=v5p cores=2 ;;
v6e) accelerator=tpu-v6e-slice generation=v6e cores=1 ;;
*) fail "--type=$type: choose from v4, v5e, v5p, v6e" ;;
esac
size=$((${topology//x/*}))
((size % chips == 0)) || fail "--topology=$topology has $size chips, which hosts of --chips=$chips do not divide"

words=(python -m "$module" "${flags[@]}" --distributed)
case $with in
kubectl)
    manifest=$(render launch/gke.yaml "name=$name" "image=$(json_string "$image")" "accelerator=$accelerator" \
        "topology=$topology" "slices=$slices" "hosts=$((size / chips))" "chips=$chips" "restarts=$restarts" \
        "command=$(kubernetes_words "${words[@]}")" \
        "volume=${claim:+{name: data, persistentVolumeClaim: {claimName: $(json_string "$claim")\}\}}" \
        "mount=${claim:+{name: data, mountPath: /data\}}")
    printf '%s\n' "$manifest"
    run kubectl apply --filename=- <<<"$manifest"
    ;;
xpk)
    required cluster zone
    options=("--cluster=$cluster" "--zone=$zone" "--workload=$name" "--tpu-type=$generation-$((size * cores))")
    options+=("--num-slices=$slices" "--docker-image=$image" "--max-restarts=$restarts" --restart-on-exit-codes=75)
    [[ -z $project ]] || options+=("--project=$project")
    run xpk workload create "${options[@]}" "--command=$(quoted "${words[@]}")"
    ;;
*) fail "--with=$with: choose from kubectl, xpk" ;;
esac
