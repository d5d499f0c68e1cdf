#!/usr/bin/env bash
# Runs an experiment on this machine, on whatever devices JAX finds:
#
#     bash launch/local.sh NAME [--python=PATH] [flags of the experiment]
#     bash launch/local.sh quickstart
#     bash launch/local.sh quickstart --smoke --workdir=/data/runs/trial
#
# Makes .venv and installs requirements.txt into it if that is not done (environment.sh says how), then hands over:
#
#     python -m experiments.NAME --workdir=runs/NAME [flags]
#
# from the root of the repository, whatever the current directory: relative paths in flags start there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

# Name and first line of the docstring of every experiment.
list_experiments() {
    local file name
    find experiments -name '[!_.]*.py' | sort | while IFS= read -r file; do
        name=${file#experiments/}
        printf '    %-32s %s\n' "${name%.py}" "$(sed -n '1s/^"""//p' "$file" | sed 's/"""$//')"
    done
}

usage() {
    printf 'usage: bash launch/local.sh NAME [--python=PATH] [flags of the experiment]\n\nexperiments:\n'
    list_experiments
}

name="" flags=() workdir=default help=""
for argument in "$@"; do
    case $argument in
    --python=*) PYTHON=${argument#*=} ;;
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
name=${name#experiments[/.]}
name=${name%.py}
name=${name//.//}
if [[ ! -f experiments/$name.py ]]; then
    usage >&2
    fail "unknown experiment '$name': choose from those above"
fi

prepare_environment requirements.txt
[[ $workdir == given ]] || flags=("--workdir=runs/$name" ${flags[@]+"${flags[@]}"})
exec "$python" -m "experiments.${name//\//.}" "${flags[@]}"
