#!/usr/bin/env bash
# Runs the tests, on eight forced CPU devices and without a network:
#
#     bash launch/test.sh [--slow] [--parity] [--python=PATH] [arguments of pytest]
#     bash launch/test.sh --tpu
#     bash launch/test.sh tests/attention -k window
#
# --slow adds the tests that take minutes, --parity those that compare with PyTorch and transformers, which it
# installs. --tpu runs the tests of the TPU compiler alone, which needs no TPU: it installs libtpu (0.6 GB) into a folder
# of its own, where no other test finds it, since JAX behaves otherwise wherever libtpu is importable. One process a core,
# up to four, runs them, each whole files: what one test of a file has compiled or trained serves the next. Works in
# .venv, as local.sh does; ends with pytest's own summary and exit code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

requirements=(requirements.txt requirements-test.txt) arguments=() tpu=""
for argument in "$@"; do
    case $argument in
    --python=*) PYTHON=${argument#*=} ;;
    --parity) requirements+=(requirements-parity.txt requirements-alone.txt) arguments+=("$argument") ;;
    --tpu) tpu=yes ;;
    *) arguments+=("$argument") ;;
    esac
done

prepare_environment "${requirements[@]}"
if [[ -n $tpu ]]; then
    # The version that belongs to the installed JAX, as its extra `tpu` names it.
    code='import importlib.metadata, re
print(next(m[1] for r in importlib.metadata.requires("jax") if (m := re.match(r"(libtpu[^;]*?) *;", r))))'
    wanted=$("$python" -c "$code") || fail "this JAX names no libtpu: is it installed whole?"
    if [[ $(cat .venv/libtpu/wanted 2>/dev/null) != "$wanted" ]]; then
        say "installing $wanted into .venv/libtpu"
        rm -rf .venv/libtpu
        "$python" -m pip install --disable-pip-version-check --no-input --no-deps -q --target .venv/libtpu "$wanted" >&2 ||
            fail "libtpu could not be installed (see above): it has packages for Linux on x86_64 and arm64 only"
        printf '%s\n' "$wanted" >.venv/libtpu/wanted
    fi
    export PYTHONPATH=$PWD/.venv/libtpu${PYTHONPATH:+:$PYTHONPATH}
    [[ ${#arguments[@]} != 0 ]] || arguments=(
        tests/plan/test_tpu.py tests/plan/test_golden.py::test_what_a_recipe_sends_on_tpus tests/attention/test_kernels.py
    )
fi
exec "$python" -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder ${arguments[@]+"${arguments[@]}"}
