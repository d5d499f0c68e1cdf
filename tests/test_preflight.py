"""What a preflight finds, in one process: what others are told, and what the workdir and the corpus lack."""

import pathlib
import shutil
import socket
import sys
import threading
import time
from typing import Any

import jax
import pytest
from crew import free_port
from runs import start, tiny

from bertjax import cluster, preflight
from bertjax.cluster import Hello, Seat
from bertjax.config import open_rows


def facts(**changes: Any) -> dict[str, Any]:
    same = {"code": "abc", "versions": {"jax": "0.10.2"}, "run": {"mode": "train"}, "config": {"a": {"b": 1}}}
    return same | changes


DIFFERENT = {
    "code": (
        facts(code="abd"),
        0,
        "process 2 (c) has other code than process 0: abd there, abc here: install",
    ),
    "versions": (
        facts(versions={"jax": "0.11.0"}),
        0,
        "other versions than process 0: jax: '0.11.0' there, '0.10.2'",
    ),
    "mode": (facts(run={"mode": "plan"}), 0, "other flags than process 0: mode: 'plan' there, 'train' here"),
    "config": (
        facts(config={"a": {"b": 2}}),
        0,
        "other config than process 0: a.b: 2 there, 1 here: start all",
    ),
    "behind": (facts(), 40.0, "the clock of process 2 (c) is 40 s behind that of process 0"),
    "ahead": (facts(), -40.0, "the clock of process 2 (c) is 40 s ahead of that of process 0"),
}


@pytest.mark.parametrize("other, late, message", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_the_first_difference_is_told(other: dict[str, Any], late: float, message: str) -> None:
    alike = [Hello(0, 3, "a", facts()), Hello(1, 3, "b", facts(), 2.0)]
    assert preflight.disagreement([*alike, Hello(2, 3, "c", facts(), -1.0)]) is None
    told = preflight.disagreement([*alike, Hello(2, 3, "c", other, late)])
    assert told is not None and message in told and len(told.splitlines()) == 1


def test_many_differences_are_counted() -> None:
    other = facts(config={name: 1 for name in "abcde"})
    told = preflight.disagreement([Hello(0, 2, "a", facts()), Hello(1, 2, "b", other)])
    assert told is not None and "(and 2 more)" in told


def test_the_code_digest_is_of_contents(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bertjax"
    shutil.copytree(
        pathlib.Path(preflight.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    here = preflight.code_digest()
    monkeypatch.setattr(preflight, "__file__", str(package / "preflight.py"))
    assert preflight.code_digest() == here, "another folder, the same contents"
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").touch()
    assert preflight.code_digest() == here
    with (package / "layers" / "norm.py").open("a") as file:
        file.write("\n")
    changed = preflight.code_digest()
    assert changed != here
    script = tmp_path / "experiment.py"
    script.write_text("steps = 1")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    assert preflight.code_digest() not in (here, changed)


def test_one_process_checks_its_own_workdir_and_devices_quickly(tmp_path: pathlib.Path) -> None:
    program, loader = start(tiny("mesh.data=4"))
    rows = loader.examples
    said = preflight.check(program.mesh, program.state, [rows], str(tmp_path / "run"))  # compiles
    assert said.startswith("preflight   corpus ") and "all-reduce of 4 MB in" in said and "B/s" in said
    assert not list((tmp_path / "run").iterdir())
    one, _ = start(tiny())
    preflight.check(one.mesh, one.state, [rows], str(tmp_path))
    began = time.perf_counter()
    said = preflight.check(one.mesh, one.state, [rows], str(tmp_path))
    assert time.perf_counter() - began < 0.05
    assert "all-reduce" not in said, "there is nobody to reduce with"


def test_an_all_reduce_that_computes_wrongly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = start(tiny("mesh.data=2"))
    assert preflight.all_reduce(program.mesh) > 0
    monkeypatch.setattr(preflight, "_reduction", lambda mesh: jax.jit(lambda x: x))
    with pytest.raises(
        ValueError, match="all-reduce of ones over 2 devices gave 1.0: a device computes wrongly"
    ):
        preflight.all_reduce(program.mesh)


def test_an_all_reduce_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_SECONDS", 0.1)
    with pytest.raises(ValueError, match="the hosts reach process 0 but not each other"):
        preflight._in_time(lambda: time.sleep(1), alone=False)


def test_room_for_two_checkpoints_is_asked_for(tmp_path: pathlib.Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert preflight.probe_space(tmp_path, free // 4) is None
    assert "no space left for two checkpoints in" in str(preflight.probe_space(tmp_path, free))
    (tmp_path / "checkpoints" / "seals").mkdir(parents=True)
    (tmp_path / "checkpoints" / "seals" / "4.json").touch()
    assert preflight.probe_space(tmp_path, free * 3 // 4) is None, "one of the two is there"
    assert "no space left for another checkpoint in" in str(preflight.probe_space(tmp_path, 2 * free))


def test_a_workdir_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    assert preflight.probe_workdir(tmp_path / "new") is None
    assert not list((tmp_path / "new").iterdir())
    told = preflight.probe_workdir(pathlib.Path("/proc/run"))  # where not even root can write
    assert told is not None and "cannot write /proc/run" in told


def test_a_corpus_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_rows(tiny(), "train")
    assert preflight.probe_corpus(rows) is None

    def unreadable(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(rows), "rows", unreadable)
    assert "the corpus cannot be read" in str(preflight.probe_corpus(rows))


def ready(**changes: Any) -> preflight.Readiness:
    same = {"host": "a", "mesh": "data=2 of devices 12", "corpus": "5f", "error": None}
    return preflight.Readiness(**(same | changes))


@pytest.mark.parametrize(
    "other, message",
    [
        (
            {"mesh": "data=4"},
            "process 1 (b) has another mesh than process 0: data=4 there, data=2 of devices 12 here",
        ),
        ({"corpus": "6f"}, "process 1 (b) has another corpus than process 0: 6f there, 5f here"),
        ({"error": "cannot write /runs"}, "process 1 (b): cannot write /runs"),
    ],
    ids=["mesh", "corpus", "workdir"],
)
def test_a_process_that_is_not_ready_is_told(other: dict[str, Any], message: str) -> None:
    assert preflight._odd_one({0: ready(), 1: ready(host="b")}) is None
    assert preflight._odd_one({0: ready(), 1: ready(host="b", **other)}) == message


def test_a_workdir_that_is_not_shared_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_SHARED", 0.2)
    token = tmp_path / ".preflight"
    assert not preflight._sees(token, "17")
    token.write_text("16")
    assert not preflight._sees(token, "17"), "of an earlier run"
    threading.Timer(0.1, token.write_text, ["17"]).start()
    assert preflight._sees(token, "17"), "a moment later"


# ---------------------------------------------------------------------------------------------- meeting


def meeting(
    seats: list[Seat], judge: cluster.Judge = preflight.disagreement, wait: float = 3.0
) -> list[BaseException | None]:
    """What each of several processes, played by threads, is told."""
    told: list[BaseException | None] = [None] * len(seats)

    def one(index: int) -> None:
        try:
            cluster.meet(seats[index], facts(), judge, wait)
        except Exception as error:
            told[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(seats))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return told


def test_processes_that_fit_together_meet() -> None:
    address = f"127.0.0.1:{free_port()}"
    heard: list[int] = []
    judge = lambda hellos: heard.extend(hello.process for hello in hellos)  # noqa: E731
    assert meeting([Seat(address, 5, i) for i in (3, 0, 4, 1, 2)], judge) == [None] * 5
    assert heard == [0, 1, 2, 3, 4]


def test_a_seat_that_is_taken_and_another_number_of_seats_are_told() -> None:
    address = f"127.0.0.1:{free_port()}"
    told = meeting([Seat(address, 3, i) for i in (0, 1, 1)])
    assert "two processes are number 1" in str(told[0]) and isinstance(told[0], ValueError)
    assert str(told[0]) == str(told[1]) == str(told[2])
    address = f"127.0.0.1:{free_port()}"
    told = meeting([Seat(address, 2, 0), Seat(address, 4, 1)])
    assert "was started with --processes=4, process 0 with 2" in str(told[0])


def test_process_0_that_is_missing_is_told() -> None:
    address = f"127.0.0.1:{free_port()}"
    told = meeting([Seat(address, 3, i) for i in (1, 2)], wait=0.3)
    assert all(isinstance(one, cluster.MissingError) for one in told), "another start may have more luck"
    assert all(str(one).startswith(f"process 0 did not answer at {address} within 0 s (") for one in told)


def test_a_stranger_is_not_taken_for_a_process() -> None:
    port = free_port()
    told: list[Any] = []
    seats = [Seat(f"127.0.0.1:{port}", 2, i) for i in range(2)]
    first = threading.Thread(target=lambda: told.append(cluster.meet(seats[0], {}, lambda _: None, wait=10)))
    first.start()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b"\xff\xff\n", b""):
        deadline = time.monotonic() + 5
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                    stranger.sendall(noise)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    cluster.meet(seats[1], {}, lambda _: None, wait=10)
    first.join(10)
    assert told == [None]


def test_absent_processes_are_listed_by_name() -> None:
    seat = Seat("a:1", 12, 0)
    assert cluster._absent(seat, {0: Hello(0, 12, "a", {})}) == "processes 1, 2, 3, 4, 5, 6, 7, 8 and 3 more"
    named = Seat("a:1", 3, 0, hosts=("a", "b", "c"))
    assert cluster._absent(named, {}) == "processes 0 (a), 1 (b), 2 (c)"
    assert cluster._absent(named, {0: Hello(0, 3, "a", {}), 2: Hello(2, 3, "c", {})}) == "process 1 (b)"


# ---------------------------------------------------------------------------------------------- addresses


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    entries = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)


def test_the_coordinator_listens_on_a_private_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "10.1.2.3")
    assert cluster.bind_address("node1:8476") == "10.1.2.3:8476"
    resolve(monkeypatch, "fd00::7", "10.1.2.3")
    assert cluster.bind_address("node1:8476") == "10.1.2.3:8476"
    resolve(monkeypatch, "fd00::7")
    assert cluster.bind_address("node1:8476") == "[fd00::7]:8476"
    resolve(monkeypatch, "127.0.0.1")
    assert (
        cluster.bind_address("localhost:8476") == cluster.bind_address("127.0.0.1:8476") == "127.0.0.1:8476"
    )
    resolve(monkeypatch, "8.8.8.8")
    with pytest.raises(ValueError, match="8.8.8.8, where anybody could connect"):
        cluster.bind_address("node1:8476")
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0.0.0.0:9")
    assert cluster.bind_address("node1:8476") == "0.0.0.0:9"


def test_a_name_that_stands_for_loopback_gives_the_address_others_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, "127.0.1.1")
    monkeypatch.setattr(cluster, "_own_address", lambda: cluster.ipaddress.ip_address("10.9.8.7"))
    assert cluster.bind_address("node1:8476") == "10.9.8.7:8476"


def test_an_unknown_coordinator_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match="--coordinator=nowhere:1: nowhere is no known host"):
        cluster.bind_address("nowhere:1")
