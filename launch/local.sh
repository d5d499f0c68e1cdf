#!/usr/bin/env bash
# Runs an experiment on this machine, on whatever devices JAX finds:
#
#     bash launch/local.sh NAME [--python=PATH] [--dry_run] [flags of the experiment]
#     bash launch/local.sh quickstart
#     bash launch/local.sh quickstart --smoke --workdir=/data/runs/trial
#
# One process takes all devices: the CPU, or every GPU of the machine (CUDA_VISIBLE_DEVICES=0,1 leaves the others).
# Makes .venv and installs requirements.txt into it if that is not done (environment.sh says how), on a machine with
# NVIDIA GPUs or TPUs also JAX for those, then hands over:
#
#     python -m experiments.NAME --workdir=runs/NAME [flags]
#
# from the root of the repository, whatever the current directory: relative paths in flags start there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

usage() {
    printf 'usage: bash launch/local.sh NAME [--python=PATH] [--dry_run] [flags of the experiment]\n\nexperiments:\n'
    list_experiments
}

name="" flags=() workdir=default help=""
for argument in "$@"; do
    case $argument in
    --python=*) PYTHON=${argument#*=} ;;
    --dry_run) dry_run=yes ;;
    -*)
        case $argument in
        -h | --help | -help) help=yes ;;
        --workdir | --workdir=* | -workdir | -workdir=*) workdir=given ;;
        esac
        flags+=("$argument")
        ;;
    *) if [[ -z $name && ${#flags[@]} == 0 ]]; then name=$argument; else flags+=("$argument"); fi ;;
    esac
done

if [[ -z $name ]]; then
    if [[ -n $help ]]; then
        usage
        exit 0
    fi
    usage >&2
    fail "the name of an experiment comes first: bash launch/local.sh NAME [flags]"
fi

# pretrain/bert_base, pretrain.bert_base and experiments/pretrain/bert_base.py are one experiment.
find_experiment "$name"
requirements_here
[[ $workdir == given ]] || flags=("--workdir=runs/$experiment" ${flags[@]+"${flags[@]}"})
if [[ -n $dry_run ]]; then
    run python3 -m venv .venv
    run "$python" -m pip install "${requirements[@]/#/--requirement=}"
    run "$python" -m "$module" "${flags[@]}"
else
    prepare_environment "${requirements[@]}"
    exec "$python" -m "$module" "${flags[@]}"
fi
