#!/usr/bin/env bash
# A TPU VM or a whole pod slice of Google Cloud, from its creation to its deletion, through queued resources:
#
#     bash launch/tpu.sh --action=ACTION --name=bert --zone=us-west4-a [--type=v5litepod-16] [--spot=yes] [--dry_run]
#                        NAME [flags of the experiment]
#
#     create     asks for the TPU and waits until it is there
#     install    copies this repository to every worker, runs --setup there, and installs .venv
#     run        starts the experiment on every worker, in the background
#     logs       copies the log of every worker to runs/tpu/NAME/
#     babysit    all of that: creates, installs and runs, again after a preemption or exit code 75, until it is done
#     stop       tells the experiment to write a checkpoint and to stop
#     delete     gives the TPU back
#
# The experiment comes last, for run and babysit alone. Its workdir must be shared by all workers: --setup='sudo mount
# ...' mounts it, and --workdir names it. Others: --project, --network, --subnetwork, --runtime (by --type),
# --reach=internal (from a machine of the same network) or iap (from anywhere, through Google's proxy),
# --restarts=100. Workers have no public address: pip needs a Cloud NAT in their network, or a mirror named by --setup.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

action="" name="" zone="" project="" type=v5litepod-16 runtime="" spot="" network="" subnetwork="" reach=internal
setup=true restarts=100
take_options "action name zone project type runtime spot network subnetwork reach setup restarts" "$@"
required action name zone
check_name "$name"
check_number restarts
[[ $reach == internal || $reach == iap ]] || fail "--reach=$reach: choose from internal, iap"
if [[ -z $runtime ]]; then
    case $type in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "--type=$type: choose from v4-N, v5litepod-N, v5p-N, v6e-N, or name the --runtime" ;;
    esac
fi

where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm) way=(--internal-ip)
[[ $reach == internal ]] || { vm=(gcloud alpha compute tpus tpu-vm) way=(--tunnel-through-iap); }
pause=${LAUNCH_PAUSE:-30} # seconds between two looks

# on WORKERS COMMAND: runs a line of shell on these workers (all, or numbers).
on() { run "${vm[@]}" ssh "$name" "${where[@]}" "${way[@]}" "--worker=$1" "--command=$2"; }

state() { "${queue[@]}" describe "$name" "${where[@]}" '--format=value(state.state)' 2>/dev/null || printf 'ABSENT\n'; }

create() {
    local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime" --internal-ips)
    [[ -z $spot ]] || options+=(--spot)
    [[ -z $network ]] || options+=("--network=$network")
    [[ -z $subnetwork ]] || options+=("--subnetwork=$subnetwork")
    run "${queue[@]}" create "$name" "${where[@]}" "${options[@]}"
    run "${queue[@]}" describe "$name" "${where[@]}" '--format=value(state.state)' # until it says ACTIVE
    [[ -z $dry_run ]] || return 0
    while :; do
        case $(state) in
        ACTIVE) return ;;
        FAILED | SUSPENDING | SUSPENDED | ABSENT) return 1 ;;
        esac
        sleep "$pause"
    done
}

# The files of this repository, and of nothing that was made from them.
sources() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard
    else
        find . -type f ! -path './.venv/*' ! -path './runs/*' ! -path './corpora/*' ! -name '*.pyc' -print0
    fi
}

pack() { [[ -n $dry_run ]] || sources | tar --null --files-from=- -czf "$1"; }

install() {
    local folder
    folder=$(mktemp -d)
    pack "$folder/bertjax.tar.gz" &&
        run "${vm[@]}" scp "$folder/bertjax.tar.gz" "$name:bertjax.tar.gz" "${where[@]}" "${way[@]}" --worker=all &&
        on all "$setup" &&
        on all "mkdir -p bertjax && tar -xzf bertjax.tar.gz -C bertjax && cd bertjax &&
            bash -euc 'source launch/environment.sh; prepare_environment requirements.txt requirements-tpu.txt'"
    local code=$?
    rm -r "$folder"
    return "$code"
}

# Every worker runs in a session of its own, which outlives the connection, and leaves its exit code in a file.
start() {
    local experiment_line
    experiment_line=$(quoted .venv/bin/python -m "$module" "${flags[@]}" --distributed)
    on all "cd bertjax && rm -f exit_code && (setsid nohup bash -c $(quoted "$experiment_line >>log.txt 2>&1
        printf '%s\n' \$? >exit_code.partial && mv exit_code.partial exit_code") >/dev/null 2>&1 </dev/null &)"
}

stop() { on all "pkill -TERM -f '^[.]venv/bin/python -m experiments' || true"; }

# What worker 0 ended with, as it knows why; nothing while it runs.
exit_code() { on 0 'cat bertjax/exit_code 2>/dev/null || true'; }

logs() {
    run mkdir -p "runs/tpu/$name"
    run "${vm[@]}" ssh "$name" "${where[@]}" "${way[@]}" --worker=all '--command=cat bertjax/log.txt' \
        "--output-directory=runs/tpu/$name"
}

delete() { run "${queue[@]}" delete "$name" "${where[@]}" --force --quiet; }

# One life of a TPU: 75 if it should be followed by another, else the experiment's exit code.
live() {
    local code
    case $(state) in
    ACTIVE) ;;
    ABSENT) create || return 75 ;;
    *)
        delete
        create || return 75
        ;;
    esac
    install && start || return 75
    while sleep "$pause"; do
        [[ $(state) == ACTIVE ]] || return 75 # it was preempted
        code=$(exit_code 2>/dev/null) || continue # the machine may be gone: the next look shows
        [[ -z $code ]] || return "$code"
    done
}

babysit() {
    local life code
    if [[ -n $dry_run ]]; then # one life, as it should be
        create
        install
        start
        exit_code
        logs
        delete
        return
    fi
    for ((life = 0; life <= restarts; life++)); do
        code=0
        live || code=$?
        say "start $((life + 1)) of $name ended with $code"
        [[ $(state) != ACTIVE ]] || logs || true
        [[ $code == 75 ]] || break
    done
    delete # it costs money until then
    return "$code"
}

case $action in
run | babysit) take_experiment runs ;;
*) [[ ${#rest[@]} == 0 ]] || fail "--action=$action takes no experiment: leave ${rest[0]} out" ;;
esac
case $action in
create | install | logs | babysit | stop | delete) "$action" ;;
run) start ;;
*) fail "unknown --action=$action: choose from create, install, run, logs, babysit, stop, delete" ;;
esac
