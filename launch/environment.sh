# shellcheck shell=bash
# The Python environment of this repository: .venv, made once and kept in step with the requirement files.
#
# The scripts beside this one source it from the repository's root and call
#
#     prepare_environment requirements.txt [more requirement files]
#
# after which $python is the interpreter to run. It is always .venv: an environment that happens to be active is
# left as it is. Whoever manages an own environment needs no script: `python -m experiments.NAME --workdir=DIR`.
#
# $PYTHON, or --python=PATH of the scripts, names the interpreter that .venv is made from.
#
# .venv/launch holds what is known about it: `made` if these scripts made it, a copy of every requirement file
# that was installed to the end, and `installing` during an install. An environment that is found with
# `installing` and nobody at work was interrupted: it is made anew, never trusted.

python=.venv/bin/python
source launch/commands.sh

# requirements_here: sets $requirements to the files that this machine's accelerator needs.
requirements_here() {
    requirements=(requirements.txt)
    if nvidia-smi --list-gpus >/dev/null 2>&1; then
        requirements+=(requirements-cuda.txt)
    elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
        requirements+=(requirements-tpu.txt)
    fi
}

# The version of an interpreter, as 3.11.7; fails where it does not run, as a pyenv shim for another version.
version_of() { "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))' 2>/dev/null; }
recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Prints the interpreter to make .venv from.
find_python() {
    local candidate version reason=""
    if [[ -n ${PYTHON:-} ]]; then
        version=$(version_of "$PYTHON") || fail "python $PYTHON does not run: name a Python 3.11 or newer"
        recent_enough "$PYTHON" || fail "python $PYTHON is $version: Python 3.11 or newer is needed"
        can_make_venv "$PYTHON" || fail "python $PYTHON cannot make environments: install its venv package (python3-venv)"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        version=$(version_of "$candidate") || continue
        if ! recent_enough "$candidate"; then
            : "${reason:="$candidate is $version"}"
        elif ! can_make_venv "$candidate"; then
            reason="$candidate ($version) cannot make environments without its venv package (python3-venv)"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and ${reason:-there is none on PATH}: install it, or name it with --python=PATH"
}

# One install at a time. The lock belongs to descriptor 9 of this shell and of the pip it starts: the kernel drops
# it when both have ended, however they ended.
lock_environment() {
    local code='
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("launch: another launch is installing into .venv: waiting for it", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
'
    exec 9<>launch/environment.sh # for writing, because a lock over NFS asks for it; nothing is written
    "$1" -c "$code" || fail "cannot lock launch/environment.sh: does this file system know locks?"
}

# Whether every requirement file given was installed as it reads now, and nothing was interrupted since.
up_to_date() {
    local file
    [[ ! -e .venv/launch/installing ]] || return 1
    version_of "$python" >/dev/null || return 1
    for file in "$@"; do
        cmp -s "$file" ".venv/launch/$file" || return 1
    done
}

# Takes away what an interrupted install or a vanished interpreter left, but last of all the note that it was ours.
clear_environment() {
    [[ -e .venv/launch/made ]] ||
        fail ".venv is broken or half installed, and launch did not make it: delete it and run again"
    say "the last install into .venv did not finish: making it anew"
    : >.venv/launch/installing
    find .venv/launch -name '*.txt' -exec rm -f {} +
    find .venv -mindepth 1 -maxdepth 1 ! -name launch -exec rm -rf {} +
}

make_environment() {
    local base
    base=$(find_python) || exit 1
    say "making .venv with Python $(version_of "$base")"
    mkdir -p .venv/launch
    : >.venv/launch/made
    : >.venv/launch/installing # a half-made environment has an interpreter, too
    "$base" -m venv .venv >&2 || fail "could not make .venv (see above)"
}

check_version() {
    local here asked
    here=$(version_of "$python")
    recent_enough "$python" || fail ".venv is Python $here and 3.11 or newer is needed: delete .venv and run again"
    if [[ -n ${PYTHON:-} ]]; then
        asked=$(version_of "$PYTHON") || fail "python $PYTHON does not run: name a Python 3.11 or newer"
        [[ $asked == "$here" ]] || fail ".venv is Python $here, not $asked: delete .venv, or ask for no other"
    fi
}

install_requirements() {
    local file arguments=() alone=()
    for file in "$@"; do
        if [[ $file == *-alone.txt ]]; then # packages without what they ask for
            alone+=(-r "$file")
        else
            arguments+=(-r "$file")
        fi
    done
    mkdir -p .venv/launch
    : >.venv/launch/installing
    say "installing $* into .venv; the first time takes minutes"
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >&2 || fail ".venv has no pip: delete .venv and run again"
    # What comes as source only is built apart, with all that its build asks for: old versions of pip would not.
    "$python" -m pip install --disable-pip-version-check --no-input --use-pep517 "${arguments[@]}" >&2 ||
        fail "the install failed (see above): the next launch begins it again"
    if [[ ${#alone[@]} != 0 ]]; then
        "$python" -m pip install --disable-pip-version-check --no-input --no-deps "${alone[@]}" >&2 ||
            fail "the install failed (see above): the next launch begins it again"
    fi
    for file in "$@"; do
        cp "$file" .venv/launch/
    done
    rm .venv/launch/installing
}

prepare_environment() {
    local any
    if ! up_to_date "$@"; then
        any=$python
        version_of "$any" >/dev/null || any=$(find_python) || exit 1
        lock_environment "$any"
        if ! up_to_date "$@"; then # not even after waiting for another launch
            if [[ -e .venv/launch/installing ]] || { [[ -e .venv ]] && ! version_of "$python" >/dev/null; }; then
                clear_environment
            fi
            [[ -e $python ]] || make_environment
            check_version
            install_requirements "$@"
        fi
        exec 9>&-
    fi
    check_version
}
