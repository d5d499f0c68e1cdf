#!/usr/bin/env bash
# Runs the tests, on eight forced CPU devices and without a network:
#
#     bash launch/test.sh [--slow] [--parity] [--python=PATH] [arguments of pytest]
#     bash launch/test.sh tests/attention -k window
#
# --slow adds the tests that take minutes, --parity those that compare with PyTorch and transformers, which it
# installs. One process a core, up to four, runs them. Works in .venv, as local.sh does; ends with pytest's own
# summary and exit code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

requirements=(requirements.txt requirements-test.txt) arguments=()
for argument in "$@"; do
    case $argument in
    --python=*) PYTHON=${argument#*=} ;;
    --parity) requirements+=(requirements-parity.txt requirements-alone.txt) arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
    esac
done

prepare_environment "${requirements[@]}"
exec "$python" -m pytest -n auto --maxprocesses=4 --dist=loadgroup ${arguments[@]+"${arguments[@]}"}
