#!/usr/bin/env bash
# Submits an experiment to SLURM, which starts it again until it is done:
#
#     bash launch/slurm.sh [--nodes=2] [--gpus=8] [--tasks=1] [--time=24:00:00] [--partition=P] [--account=A]
#                          [--restarts=100] [--dry_run] NAME [flags of the experiment]
#     bash launch/slurm.sh --nodes=4 --gpus=8 pretrain/bert_base --set mesh.fsdp=8
#
# --gpus are those of a node (0: CPUs only); --tasks=1 gives all of a node to one process, --tasks=8 gives each of
# eight processes one GPU. The repository, .venv and the workdir (runs/NAME unless there is a --workdir) must lie where
# all nodes see them. Three minutes before the time is up every process is told to stop: it writes a checkpoint and
# exits with 75, and slurm.sbatch puts the job back into the queue; so it does when a host was missing or stuck. When
# the job is preempted or a node fails, SLURM itself does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

nodes=1 gpus=0 tasks=1 time=24:00:00 partition="" account="" restarts=100
take_options "nodes gpus tasks time partition account restarts" "$@"
take_experiment runs
for option in nodes tasks restarts; do check_number "$option"; done

requirements=(requirements.txt)
[[ $gpus == 0 ]] || requirements+=(requirements-cuda.txt)
[[ -n $dry_run ]] || prepare_environment "${requirements[@]}"

options=("--job-name=${experiment//\//-}" "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time")
[[ $gpus == 0 ]] || options+=("--gres=gpu:$gpus")
[[ -z $partition ]] || options+=("--partition=$partition")
[[ -z $account ]] || options+=("--account=$account")
run mkdir -p runs/slurm
run sbatch "${options[@]}" "--chdir=$PWD" launch/slurm.sbatch "$restarts" "$module" "${flags[@]}"
