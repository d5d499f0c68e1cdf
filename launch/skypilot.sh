#!/usr/bin/env bash
# An experiment on the GPUs of whichever cloud has them, as a managed job of SkyPilot, which recovers it when spot
# machines are taken away or it exits with 75:
#
#     bash launch/skypilot.sh --name=bert --bucket=my-bucket [--accelerators=H100:8] [--nodes=1] [--spot=true]
#                             [--dry_run] NAME [flags of the experiment]
#
# --bucket is a bucket of yours, mounted at /data on all nodes, where the workdir is put unless there is a --workdir.
# Logs: sky jobs logs --name bert        Stop: sky jobs cancel --name bert
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

name="" bucket="" accelerators=H100:8 nodes=1 spot=true
take_options "name bucket accelerators nodes spot" "$@"
required name bucket
check_name "$name"
check_number nodes
[[ $spot == true || $spot == false ]] || fail "--spot=$spot: choose from true, false"
take_experiment /data/runs

manifest=$(render launch/skypilot.yaml "name=$name" "bucket=$(json_string "$bucket")" "spot=$spot" "nodes=$nodes" \
    "accelerators=$(json_string "$accelerators")" \
    "command=$(quoted .venv/bin/python -m "$module" "${flags[@]}")")
printf '%s\n' "$manifest"
file=runs/skypilot-$name.yaml
[[ -n $dry_run ]] || { mkdir -p runs && printf '%s\n' "$manifest" >"$file"; }
run sky jobs launch "--name=$name" --yes --detach-run "$file"
