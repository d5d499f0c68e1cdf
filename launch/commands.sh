# shellcheck shell=bash
# What the scripts of this folder share: their options, the experiment they are to run, how a command is shown and
# run, how a template is filled in. Each of them sources this file from the repository's root.
#
# A script takes `[--option=VALUE ...] NAME [flags of the experiment]`: its own options come before the name. With
# --dry_run it prints every command and every manifest, and runs none.

say() { printf 'launch: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

dry_run="" rest=()

# take_options "a b c" ARGUMENTS...: sets the variables $a, $b, $c from --a=VALUE and so on, up to the first argument
# that is no option, and $rest from there. --help prints the comment at the top of the script.
take_options() {
    local known=$1 option
    shift
    while [[ ${1:-} == -* ]]; do
        option=${1#--}
        option=${option%%=*}
        case $1 in
        -h | --help)
            sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        --dry_run) dry_run=yes ;;
        --*=*)
            [[ " $known " == *" $option "* ]] || fail "unknown option --$option before the experiment's name: choose from $known dry_run"
            printf -v "$option" '%s' "${1#*=}"
            ;;
        *) fail "option $1 has no value: write $1=VALUE, and flags of the experiment behind its name" ;;
        esac
        shift
    done
    rest=("$@")
}

# required NAMES: fails unless all these options have a value.
required() {
    local option
    for option in "$@"; do
        [[ -n ${!option} ]] || fail "--$option is missing: see --help"
    done
}

# Name and first line of the docstring of every experiment.
list_experiments() {
    local file name
    find experiments -name '[!_.]*.py' | sort | while IFS= read -r file; do
        name=${file#experiments/}
        printf '    %-32s %s\n' "${name%.py}" "$(sed -n '1s/^"""//p' "$file" | sed 's/"""$//')"
    done
}

# find_experiment NAME: sets $experiment, as pretrain/bert_base, and $module, as experiments.pretrain.bert_base.
# shellcheck disable=SC2034 # they are used where this file is sourced
find_experiment() {
    experiment=${1#experiments[/.]}
    experiment=${experiment%.py}
    experiment=${experiment//.//}
    if [[ ! -f experiments/$experiment.py ]]; then
        printf 'experiments:\n' >&2
        list_experiments >&2
        fail "unknown experiment '$1': choose from those above"
    fi
    module=experiments.${experiment//\//.}
}

# take_experiment: the experiment and its flags from $rest. Sets $experiment, $module and $flags, in which there is
# always a --workdir; the default is the first argument and the name of the experiment below it.
take_experiment() {
    local flag given=""
    [[ ${#rest[@]} -gt 0 ]] || fail "the name of an experiment is missing: see --help"
    find_experiment "${rest[0]}"
    flags=("${rest[@]:1}")
    for flag in ${flags[@]+"${flags[@]}"}; do
        case $flag in --workdir | --workdir=* | -workdir | -workdir=*) given=yes ;; esac
    done
    [[ -n $given ]] || flags=("--workdir=$1/$experiment" ${flags[@]+"${flags[@]}"})
}

# quoted WORDS: one line that a shell reads as these words.
quoted() {
    local word line="" tick="'"
    for word in "$@"; do
        [[ $word =~ ^[-A-Za-z0-9_./:=@%+,]+$ ]] || word=$tick${word//$tick/$tick\\$tick$tick}$tick
        line+="${line:+ }$word"
    done
    printf '%s' "$line"
}

# run WORDS: shows a command and runs it, or only shows it.
run() {
    printf '+ %s\n' "$(quoted "$@")" >&2
    [[ -n $dry_run ]] || "$@"
}

# A word as JSON, which YAML reads, too.
json_string() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\t'/\\t}
    text=${text//$'\n'/\\n}
    printf '"%s"' "$text"
}

json_list() {
    local word list=""
    for word in "$@"; do
        list+="${list:+, }$(json_string "$word")"
    done
    printf '[%s]' "$list"
}

# kubernetes_words WORDS: the same as a list of arguments, in which Kubernetes expands no $(NAME).
kubernetes_words() {
    local word escaped=()
    for word in "$@"; do
        escaped+=("${word//\$(/\$\$(}")
    done
    json_list "${escaped[@]}"
}

# render TEMPLATE NAME=TEXT...: the template with every {{NAME}} replaced, once; its comments stay behind.
render() {
    local left place pair text=""
    left=$(grep -v '^ *#' "$1")
    shift
    while [[ $left == *'{{'* ]]; do
        text+=${left%%'{{'*}
        left=${left#*'{{'}
        place=${left%%'}}'*}
        left=${left#*'}}'}
        for pair in "$@" ""; do
            [[ $pair != "$place="* ]] || break
        done
        [[ -n $pair ]] || fail "a template has a place that nobody fills: $place"
        text+=${pair#*=}
    done
    printf '%s\n' "$text$left"
}

# A name that Kubernetes and clouds accept.
check_name() {
    [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
        fail "--name=$1: at most 40 small letters, digits and dashes, a letter first"
}

check_number() { [[ ${!1} =~ ^[1-9][0-9]*$ ]] || fail "--$1=${!1}: a number of 1 or more"; }

# An image whose contents cannot change between two starts of one run.
check_image() {
    case $1 in
    *@sha256:*) ;;
    *:latest) fail "--image=$1: name a fixed tag or a digest, for what 'latest' is changes under a run" ;;
    *:*) [[ ${1##*:} != */* ]] || fail "--image=$1 has no tag: name a fixed one, or a digest" ;;
    *) fail "--image=$1 has no tag: name a fixed one, or a digest" ;;
    esac
}
