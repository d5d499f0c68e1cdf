"""The files of `launch/`: what they print, what they would run, and that they act on exit codes as documented.

Nothing here reaches a cloud or a cluster: manifests are held against the schemas that `kubernetes-validate` carries,
the JobSet's own fields against a list of those of jobset.x-k8s.io/v1alpha2, gcloud's commands against a list of its
flags (and against gcloud itself, where it is installed), and SLURM and the TPUs are played by small programs.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from cases import slow_but

from bertjax import exit_codes

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"])
PLACES = {
    "local": ["launch/local.sh", "--dry_run"],
    "slurm": ["launch/slurm.sh", "--dry_run", "--nodes=2", "--gpus=8", "--partition=a100"],
    "tpu": [
        "launch/tpu.sh",
        "--dry_run",
        "--action=babysit",
        "--name=bert",
        "--zone=us-west4-a",
        "--spot=yes",
    ],
    "tpu iap": [
        *("launch/tpu.sh", "--dry_run", "--action=babysit", "--name=bert", "--zone=us-west4-a"),
        *("--reach=iap", "--project=p", "--network=n", "--subnetwork=s", "--type=v6e-16"),
    ],
    "gke": [
        "launch/gke.sh",
        "--dry_run",
        "--name=bert",
        "--image=r.io/b:1.0",
        "--claim=corpora",
        "--slices=2",
    ],
    "xpk": [
        *("launch/gke.sh", "--dry_run", "--with=xpk", "--name=bert", "--image=r.io/b:1.0"),
        *("--cluster=c", "--zone=z", "--project=p", "--type=v5p", "--topology=2x2x4"),
    ],
    "kubernetes": [
        "launch/kubernetes.sh",
        "--dry_run",
        "--name=bert",
        "--image=r.io/b@sha256:0",
        "--nodes=2",
    ],
    "skypilot": ["launch/skypilot.sh", "--dry_run", "--name=bert", "--bucket=b", "--nodes=2"],
}
# A flag that every place must hand over as it is.
AWKWARD = "data.corpus=/my data/$(INDEX) $(touch pwned) `touch pwned` 'a' \"b\" & \\ {{name}} *"
FLAGS = ["pretrain/bert_base", "--workdir=/my runs/bert", "--set", AWKWARD]


def bash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_shell(script: pathlib.Path) -> None:
    assert bash("-n", str(script)).returncode == 0
    checker = shutil.which("shellcheck") or shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([checker, "-x", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def no_tools(tmp_path: pathlib.Path) -> str:
    """A PATH on which every tool of a cloud leaves a note that it was called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gcloud", "kubectl", "xpk", "sky", "sbatch", "srun", "scontrol", "pip", "nvidia-smi"):
        (tools / name).write_text(f"#!/bin/sh\necho $0 >>{tmp_path}/called\nexit 1\n")
        (tools / name).chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


@pytest.mark.parametrize("place", PLACES)
def test_a_dry_run_runs_nothing_and_shows_the_experiment(
    place: str, no_tools: str, tmp_path: pathlib.Path
) -> None:
    script, *options = PLACES[place]
    before = sorted((ROOT / "runs").rglob("*"))
    if place == "local":  # whose options may stand anywhere
        done = bash(script, *FLAGS, *options, PATH=no_tools)
    else:
        done = bash(script, *options, *FLAGS, PATH=no_tools)
    assert done.returncode == 0, done.stderr
    called = tmp_path / "called"
    assert not called.exists() or set(called.read_text().split()) <= {f"{tmp_path}/tools/nvidia-smi"}
    assert sorted((ROOT / "runs").rglob("*")) == before and not (ROOT / "pwned").exists()
    assert "experiments.pretrain.bert_base" in done.stdout + done.stderr
    shown = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
    assert shown, "no command was shown"
    for word in ("password", "token=", "secret", "0.0.0.0", "latest"):
        assert word not in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("place", [place for place in PLACES if place != "local"])
def test_a_wrong_option_is_one_line(place: str) -> None:
    script, *options = PLACES[place]
    for wrong, message in {
        "--nodez=2": "unknown option --nodez",
        "--nodes": "option --nodes has no value",
    }.items():
        done = bash(script, *options, wrong, *FLAGS)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    done = bash(script, *options, "pretrain/bert_bse")
    assert done.returncode == 1 and "unknown experiment 'pretrain/bert_bse'" in done.stderr
    if place not in ("slurm",):
        done = bash(script, *[o for o in options if not o.startswith("--name")], *FLAGS)
        assert done.returncode == 1 and "--name is missing" in done.stderr
    help_text = bash(script, "--help")
    assert help_text.returncode == 0 and f"bash {script}" in help_text.stdout


@pytest.mark.parametrize("image", ["bert", "r.io/bert", "r.io:5000/bert", "r.io/bert:latest"])
def test_an_image_that_may_change_is_refused(image: str) -> None:
    for script in ("launch/gke.sh", "launch/kubernetes.sh"):
        done = bash(script, "--dry_run", "--name=bert", f"--image={image}", "quickstart")
        assert done.returncode == 1 and f"--image={image}" in done.stderr


# ---------------------------------------------------------------------------------------------- manifests


def manifests(place: str) -> list[Any]:
    yaml = pytest.importorskip("yaml")
    script, *options = PLACES[place]
    done = bash(script, *options, *FLAGS)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def validate(manifest: Any) -> None:
    """Against the schema of Kubernetes itself, which knows every field of its own kinds."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, "1.32", strict=True)


def command_of(pod: Any) -> list[str]:
    """What Kubernetes makes of the command: $$( stands for $(, and $(INDEX) for the pod's index."""
    words = pod["containers"][0]["command"]
    return [re.sub(r"(?<!\$)\$\(INDEX\)", "1", word).replace("$$(", "$(") for word in words]


def check_pod(pod: Any) -> None:
    """What holds for every pod."""
    (container,) = pod["containers"]
    assert command_of(pod)[:3] == ["python", "-m", "experiments.pretrain.bert_base"]
    assert {"--workdir=/my runs/bert", AWKWARD} <= set(command_of(pod))
    assert pod["restartPolicy"] == "Never" and pod["automountServiceAccountToken"] is False
    assert not pod.get("hostNetwork") and "ports" not in container
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    assert {"name": "JAX_COORDINATOR_BIND_ADDRESS", "value": "$(POD_IP):8476"} in container["env"]
    # A container is asked to stop long enough before it is killed.
    assert pod["terminationGracePeriodSeconds"] >= 120


GIVE_UP = [exit_codes.FAILED, exit_codes.WRONG_INPUT, exit_codes.DIVERGED]


def test_the_kubernetes_manifests_are_valid_and_act_on_exit_codes() -> None:
    service, job = manifests("kubernetes")
    validate(service)
    validate(job)
    assert service["spec"]["clusterIP"] == "None" and "type" not in service["spec"]
    spec = job["spec"]
    assert spec["parallelism"] == spec["completions"] == 2
    pod = spec["template"]["spec"]
    check_pod(pod)
    assert command_of(pod)[-3:] == ["--coordinator=bert-0.bert:8476", "--processes=2", "--process=1"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}
    evicted, failed = spec["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore"
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", GIVE_UP)
    assert failed["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert spec["backoffLimit"] == 200, "a restart of the run is one of each pod"


# Of the API: the fields of a JobSet's spec (release 0.8 and newer), by the path of the object they are in.
JOBSET = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        *("coordinator", "failurePolicy", "managedBy", "network", "replicatedJobs", "startupPolicy"),
        *("successPolicy", "suspend", "ttlSecondsAfterFinished"),
    },
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {"action", "name", "onJobFailureReasons", "targetReplicatedJobs"},
    "spec.replicatedJobs": {"name", "replicas", "template", "dependsOn", "groupName"},
}
JOBSET_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}


def unknown_fields(node: Any, path: str = "") -> list[str]:
    """Fields of a JobSet that its API does not have; the Jobs in it are the schema's of Kubernetes."""
    if isinstance(node, list):
        return [field for item in node for field in unknown_fields(item, path)]
    if not isinstance(node, dict) or path not in JOBSET:
        return []
    found = [f"{path}.{name}" for name in node.keys() - JOBSET[path]]
    for name, value in node.items():
        found += unknown_fields(value, f"{path}.{name}".lstrip("."))
    return found


def test_the_jobset_is_valid_and_acts_on_exit_codes() -> None:
    (jobset,) = manifests("gke")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert unknown_fields(jobset) == []
    assert unknown_fields({"spec": {"failurePolicy": {"rules": [{"act": 1}]}}}) == [
        "spec.failurePolicy.rules.act"
    ]
    failure = jobset["spec"]["failurePolicy"]
    (rule,) = failure["rules"]
    assert rule["action"] in JOBSET_ACTIONS and rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"] and failure["maxRestarts"] == 100
    (slices,) = jobset["spec"]["replicatedJobs"]
    assert slices["replicas"] == 2
    validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **slices["template"]})
    job = slices["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4 and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", GIVE_UP)
    pod = job["template"]["spec"]
    check_pod(pod)
    assert command_of(pod)[-1] == "--distributed"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "corpora"}}]


def test_a_topology_that_hosts_do_not_divide_is_refused() -> None:
    done = bash("launch/gke.sh", "--dry_run", "--name=b", "--image=r/b:1", "--topology=3x3", "quickstart")
    assert done.returncode == 1 and "has 9 chips" in done.stderr


def test_the_skypilot_task_recovers_on_75_alone() -> None:
    (task,) = manifests("skypilot")
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [exit_codes.REQUEUE]}
    assert task["num_nodes"] == 2 and "ports" not in task["resources"]
    line = task["run"].strip().replace(".venv/bin/python", "printf '%s\\n'")
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    words = bash("-c", line, **nodes).stdout.splitlines()
    assert words == [
        *("-m", "experiments.pretrain.bert_base", *FLAGS[1:]),
        *("--coordinator=10.0.0.1:8476", "--processes=2", "--process=1"),
    ]


# ---------------------------------------------------------------------------------------------- gcloud, xpk

# Flags of gcloud 528 and xpk 1.16 for the commands that are used.
TOOLS = {
    "queued-resources create": {
        *("zone", "project", "node-id", "accelerator-type", "runtime-version", "internal-ips", "spot"),
        *("network", "subnetwork"),
    },
    "queued-resources describe": {"zone", "project", "format"},
    "queued-resources delete": {"zone", "project", "force", "quiet"},
    "tpu-vm scp": {"zone", "project", "internal-ip", "tunnel-through-iap", "worker"},
    "tpu-vm ssh": {
        "zone",
        "project",
        "internal-ip",
        "tunnel-through-iap",
        "worker",
        "command",
        "output-directory",
    },
    "workload create": {
        *("cluster", "zone", "project", "workload", "tpu-type", "num-slices", "docker-image"),
        *("max-restarts", "restart-on-exit-codes", "command"),
    },
}


def commands(place: str) -> list[list[str]]:
    """The commands that a dry run shows, as words."""
    script, *options = PLACES[place]
    done = bash(script, *options, *FLAGS)
    assert done.returncode == 0, done.stderr
    found = []
    for text in re.split(r"^\+ ", done.stderr, flags=re.MULTILINE)[1:]:
        words = bash("-c", f"printf '%s\\0' {text}").stdout.split("\0")[:-1]
        found.append(words)
    return found


@pytest.mark.parametrize("place", ["tpu", "tpu iap", "xpk"])
def test_commands_have_only_flags_that_the_tool_knows(place: str) -> None:
    used = [words for words in commands(place) if words[0] in ("gcloud", "xpk")]
    for words in used:
        (known,) = [flags for name, flags in TOOLS.items() if name in " ".join(words[:6])]
        flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, words
        assert not ({"tunnel-through-iap"} & flags and "alpha" not in words), "only the alpha track has it"
    if place != "xpk":
        assert [" ".join(words[:6]) for words in used if "create" in words]
        (create,) = [words for words in used if "create" in words]
        assert "--internal-ips" in create, "no public address"
    else:
        (create,) = used
        assert {"--tpu-type=v5p-32", "--restart-on-exit-codes=75", "--max-restarts=100"} <= set(create)
        (command,) = [word.partition("=")[2] for word in create if word.startswith("--command=")]
        words = bash("-c", f"printf '%s\\0' {command}").stdout.split("\0")[:-1]
        assert words == ["python", "-m", "experiments.pretrain.bert_base", *FLAGS[1:], "--distributed"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tpu", "tpu iap"])
def test_gcloud_parses_the_commands(place: str) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    for words in commands(place):
        if words[0] == "gcloud":
            plain = [re.sub(r"^--command=.*", "--command=true", word, flags=re.DOTALL) for word in words]
            done = subprocess.run(
                ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={' '.join(plain)}"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            (said,) = json.loads(done.stdout)
            assert said["success"], said["error_message"]


# A TPU in a folder: it is there while the file `state` says ACTIVE, and `ssh` runs the command here, once.
GCLOUD = """#!/usr/bin/env bash
cd "$FAKE_TPU"
printf '%s\\n' "$*" >>calls
case "$*" in
*'queued-resources create'*) echo ACTIVE >state; mkdir -p home ;;
*'queued-resources describe'*) [[ -e state ]] || exit 1; cat state ;;
*'queued-resources delete'*) rm -rf state home ;;
*'tpu-vm scp'*) ;;
*'tpu-vm ssh'*)
    for word in "$@"; do case $word in --command=*) command=${word#--command=} ;; esac; done
    case $command in
    'mkdir -p bertjax && tar'*) mkdir -p home/bertjax/.venv/bin; cp python home/bertjax/.venv/bin/ ;;
    *) cd home && bash -c "$command" ;;
    esac ;;
esac
"""
# The experiment: ends with the next code of the file `codes`; `preempted` takes the machine away instead.
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$@" >>"$FAKE_TPU/arguments"
code=$(head -n1 "$FAKE_TPU/codes")
sed -i 1d "$FAKE_TPU/codes"
if [[ $code == preempted ]]; then echo SUSPENDED >"$FAKE_TPU/state"; sleep 60; fi
echo training
exit "$code"
"""


@pytest.mark.parametrize(
    "codes, ended, creates, starts",
    [
        (["0"], 0, 1, 1),
        (["75", "preempted", "75", "0"], 0, 2, 4),
        (["75", "2"], 2, 1, 2),
        (["3"], 3, 1, 1),
        (["1"], 1, 1, 1),
        (["75", "75", "75", "75"], 75, 1, 4),
    ],
    ids=["done", "preempted", "wrong input", "diverged", "failed", "too often"],
)
def test_a_tpu_is_watched_until_the_run_is_done(
    codes: list[str], ended: int, creates: int, starts: int, tmp_path: pathlib.Path
) -> None:
    checkout = tmp_path / "my checkout"
    shutil.copytree(LAUNCH, checkout / "launch")
    shutil.copytree(ROOT / "experiments", checkout / "experiments")
    for name, text in {"gcloud": GCLOUD, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "codes").write_text("\n".join(codes) + "\n")
    script, _, *options = PLACES["tpu"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    settings = {"FAKE_TPU": str(tmp_path), "LAUNCH_PAUSE": "0.2", "PATH": path}
    done = bash(str(checkout / script), *options, "--restarts=3", *FLAGS, **settings)
    assert done.returncode == ended, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert calls.count("queued-resources create") == creates
    words = (tmp_path / "arguments").read_text()
    arrived = ["-m", "experiments.pretrain.bert_base", *FLAGS[1:], "--distributed", ""]
    assert words == starts * "\n".join(arrived), "what was typed is what arrives"
    assert not (tmp_path / "state").exists(), "the TPU was given back"


# ---------------------------------------------------------------------------------------------- slurm


@pytest.fixture
def slurm(tmp_path: pathlib.Path) -> tuple[pathlib.Path, dict[str, str]]:
    """A checkout (in a folder with a space in its name) with an environment of its own, and a PATH with a scheduler."""
    checkout, state = tmp_path / "my checkout", tmp_path / "slurm"
    for folder in (checkout / ".venv" / "bin", checkout / ".venv" / "launch", state / "bin"):
        folder.mkdir(parents=True)
    shutil.copytree(LAUNCH, checkout / "launch")
    (checkout / "experiments").mkdir()
    (checkout / "experiments" / "__init__.py").touch()
    (checkout / "bertjax").symlink_to(ROOT / "bertjax")
    for name in ("requirements.txt", "requirements-cuda.txt"):
        shutil.copy(ROOT / name, checkout)
        shutil.copy(ROOT / name, checkout / ".venv" / "launch")
    for name in ("sbatch", "srun", "scontrol"):
        script = state / "bin" / name
        fake = ROOT / "tests" / "fake_slurm.py"
        # Without the packages beside it, of which it needs none, an interpreter starts in half of the time.
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{fake}" {name} "$@"\n')
        script.chmod(0o755)
    python(checkout, f'exec "{sys.executable}" "$@"')
    path = f"{state / 'bin'}:{os.environ['PATH']}"
    return checkout, {"PATH": path, "FAKE_SLURM": str(state)}


def python(checkout: pathlib.Path, line: str) -> None:
    """What the checkout's interpreter does, when it is not asked for its version."""
    file = checkout / ".venv" / "bin" / "python"
    file.write_text(
        f'#!/usr/bin/env bash\nif [[ $1 == -c ]]; then exec "{sys.executable}" "$@"; fi\n{line}\n'
    )
    file.chmod(0o755)


EXPERIMENT = '''"""A run of these tests."""

import os
import time

from bertjax import experiment
from bertjax.data.loader import Loader
from runs import tiny

place = Loader.place


def slowly(loader, step, *where):
    time.sleep(0.1)
    return place(loader, step, *where)


if os.environ["SLURM_RESTART_COUNT"] == "0":  # to have the time to agree on where to stop
    Loader.place = slowly
if __name__ == "__main__":
    experiment.main(tiny("mesh.data=2", "train.steps=30", "train.checkpoint_every=100"))
'''


@pytest.mark.multiprocess
def test_a_slurm_job_is_preempted_requeued_and_finished(
    slurm: tuple[pathlib.Path, dict[str, str]], tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    crew = pytest.importorskip("crew")
    checkout, settings = slurm
    (checkout / "experiments" / "small.py").write_text(EXPERIMENT)
    workdir = tmp_path / "my runs" / "small"
    (tmp_path / "slurm" / "preempt").write_text(f'{workdir}/metrics.jsonl\n"step": 4,')
    environment = crew.environment({**quick_compiles, **settings})
    command = [
        "bash",
        checkout / "launch" / "slurm.sh",
        "--nodes=1",
        "--tasks=2",
        "small",
        f"--workdir={workdir}",
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "slurm" / "ends").read_text().split() == ["75", "0"]
    assert re.search(r"stopped at step \d+ of 30: the same command goes on", done.stderr)
    assert "start 1 of at most 101 ends with 75: back into the queue" in done.stdout
    assert re.search(r"resumes at step \d+", done.stderr)
    result = json.loads((workdir / "result.json").read_text())
    assert result["processes"] == 2 and result["step"] == 30
    submitted = (tmp_path / "slurm" / "submitted").read_text().splitlines()
    assert {"job-name=small", "nodes=1", "ntasks-per-node=2"} <= set(submitted)
    header = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --requeue\n" in header and "#SBATCH --signal=TERM@180\n" in header


CODES = [
    ("0 0", 0, 1),
    ("1 1", 1, 1),
    ("2 2", 2, 1),
    ("3 3", 3, 1),
    ("75 75", 75, 3),
    ("75 137", 75, 3),  # a process that hangs is killed after the others have left
    ("137 75", 137, 1),  # process 0 broke down
    ("0 1", 0, 1),  # process 0 has the last word
]


@pytest.mark.parametrize(
    "codes, ended, starts", slow_but(CODES, [CODES[0], CODES[2], *CODES[5:]]), ids=[case[0] for case in CODES]
)
def test_a_slurm_job_is_requeued_on_75_alone(
    codes: str, ended: int, starts: int, slurm: tuple[pathlib.Path, dict[str, str]], tmp_path: pathlib.Path
) -> None:
    checkout, settings = slurm
    (checkout / "experiments" / "small.py").write_text('"""Nothing."""\n')
    python(
        checkout,
        f'codes=({codes}); printf \'%s\\n\' "$@" >"$FAKE_SLURM/words"; exit ${{codes[SLURM_PROCID]}}',
    )
    command = ["bash", checkout / "launch" / "slurm.sh", "--tasks=2", "--restarts=2", "small", *FLAGS[1:]]
    done = subprocess.run(
        command,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == ended, done.stderr
    assert (tmp_path / "slurm" / "ends").read_text().split() == [str(ended)] * starts
    words = (tmp_path / "slurm" / "words").read_text().splitlines()
    assert words[:5] == ["-m", "experiments.small", *FLAGS[1:]]
    assert words[5:7] == ["--coordinator=localhost:24242", "--processes=2"]
    assert words[8] == "--hosts=localhost,localhost"
    assert not list((checkout / "runs" / "slurm").iterdir())


def test_launchers_and_package_mean_the_same_numbers() -> None:
    assert exit_codes.REQUEUE == 75 and GIVE_UP == [1, 2, 3]
    for name in ("slurm.sbatch", "tpu.sh", "gke.sh", "skypilot.yaml"):
        assert "75" in (LAUNCH / name).read_text()
