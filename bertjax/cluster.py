"""The processes of one run: how they meet, what they tell each other, and how they leave together.

    meet     before JAX knows of the others: every process says hello to process 0 at the coordinator's address, which
             compares what they say and answers all at once. A missing host costs a time-out with its name, not a hang
    join     jax.distributed.initialize, with the coordinator listening on a private address only
    Notes    small records that every process can read while they run, in JAX's coordination service
    leave    one message, by process 0, and one exit code for all

Collectives are of no use for any of this: a collective waits for ever for the process that one wants to hear about.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax

from bertjax.exit_codes import REQUEUE, WRONG_INPUT

WAIT = 300.0  # seconds for all processes to come
_PATIENCE = 10.0  # seconds for what takes none
_PREFIX = "bertjax"


class ToldError(RuntimeError):
    """An error that process 0 tells for all."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class MissingError(RuntimeError):
    """Not all processes came, or one of them is gone: another start may have more luck."""


@dataclasses.dataclass(frozen=True)
class Seat:
    """Which of how many processes this is, and where process 0 is found."""

    coordinator: str
    processes: int
    process: int
    devices: tuple[int, ...] | None = None  # local ones that it may use; None for all
    hosts: tuple[str, ...] = ()  # names of all machines, where the launcher knows them

    def name(self, process: int) -> str:
        """A process, for people."""
        known = len(self.hosts) == self.processes and self.hosts[process]
        return f"process {process} ({known})" if known else f"process {process}"


@dataclasses.dataclass(frozen=True)
class Hello:
    """What a process says of itself."""

    process: int
    processes: int
    host: str
    facts: Mapping[str, Any]
    late: float = 0.0  # seconds by which its clock is behind that of process 0

    @property
    def name(self) -> str:
        """The process, for people."""
        return f"process {self.process} ({self.host})"


Judge = Callable[[Sequence[Hello]], str | None]


# ---------------------------------------------------------------------------------------------- meet


def detect(wait: float = WAIT) -> Seat:
    """The seat that the cluster's own environment (TPU pods, SLURM, Open MPI, Kubernetes) tells."""
    from jax._src.clusters import ClusterEnv

    os.environ.setdefault("JAX_COORDINATOR_PORT", "8476")
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(wait))
    coordinator, processes, process, devices = found
    if coordinator is None or processes is None or process is None:
        raise ValueError(
            "--distributed found no cluster: give --coordinator=HOST:PORT, --processes and --process"
        )
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return Seat(coordinator, processes, process, tuple(devices) if devices else None, tuple(hosts))


def local_devices() -> tuple[int, ...] | None:
    """Those that JAX_LOCAL_DEVICE_IDS names, where a machine runs several processes; None for all."""
    named = os.environ.get("JAX_LOCAL_DEVICE_IDS", "")
    return tuple(map(int, named.split(","))) if named else None


def bind_address(coordinator: str) -> str:
    """Where process 0 listens: the private address that the coordinator's name stands for, and no other.

    JAX itself would listen on every interface. JAX_COORDINATOR_BIND_ADDRESS overrules.
    """
    if chosen := os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return chosen
    host, _, port = coordinator.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise ValueError(f"--coordinator={coordinator}: {host} is no known host ({error.strerror})") from None
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    address = min(addresses, key=lambda address: (address.version, addresses.index(address)))
    if address.is_loopback and not _is_loopback_name(host):
        # Debian's /etc/hosts gives a machine's own name 127.0.1.1, where nobody else can reach it.
        address = _own_address()
    if address.is_global:
        raise ValueError(
            f"--coordinator={coordinator} is the public address {address}, where anybody could connect: name a private "
            f"one, or set JAX_COORDINATOR_BIND_ADDRESS={coordinator} if a firewall is in front of it"
        )
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _is_loopback_name(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def _own_address() -> Any:
    """The address from which this machine speaks to a private network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 9))
        except OSError:
            return ipaddress.ip_address("127.0.0.1")
        return ipaddress.ip_address(probe.getsockname()[0])


def meet(seat: Seat, facts: Mapping[str, Any], judge: Judge, wait: float = WAIT) -> None:
    """Returns when all processes are here and process 0 finds that they fit together, and raises everywhere otherwise.

    `facts` are JSON data; `judge` sees the hellos of all, in order, and says in one line what is wrong.
    """
    if seat.processes == 1:
        return
    mine = Hello(seat.process, seat.processes, socket.gethostname(), facts)
    if seat.process == 0:
        _receive(seat, mine, judge, wait)
    else:
        _visit(seat, mine, wait)


def _receive(seat: Seat, mine: Hello, judge: Judge, wait: float) -> None:
    """Process 0: hears all, judges, answers all."""
    here, visitors, code = {0: mine}, [], WRONG_INPUT
    with contextlib.ExitStack() as stack:
        address = bind_address(seat.coordinator)
        door = stack.enter_context(_door(address, seat.processes))
        verdict = None
        for visitor, hello in _arrivals(
            door, wait, lambda: f"waiting for {_absent(seat, here)} at {address}"
        ):
            visitors.append(stack.enter_context(visitor))
            verdict = _seat_taken(seat, here, hello)
            here.setdefault(hello.process, hello)
            if verdict is not None or len(here) == seat.processes:
                break
        if verdict is None and len(here) == seat.processes:
            verdict = judge([here[process] for process in sorted(here)])
        elif verdict is None:
            code = REQUEUE
            verdict = (
                f"{_absent(seat, here)} of {seat.processes} did not come to {address} within {wait:.0f} s"
            )
        for visitor in visitors:
            with contextlib.suppress(OSError):
                _say(visitor, {"error": verdict, "code": code})
    if verdict is not None:
        raise MissingError(verdict) if code == REQUEUE else ValueError(verdict)


def _door(address: str, visitors: int) -> socket.socket:
    """Listens at an address."""
    host, _, port = address.rpartition(":")
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host.strip("[]"), int(port)))
    except OSError as error:
        door.close()
        raise ValueError(
            f"process 0 cannot listen at {address} ({error.strerror}): choose another port"
        ) from None
    door.listen(visitors)
    return door


def _arrivals(
    door: socket.socket, wait: float, reminder: Callable[[], str]
) -> Iterator[tuple[socket.socket, Hello]]:
    """Processes as they come, until the time is up; after a moment it is said who is missing."""
    began, reminded = time.monotonic(), False
    while (left := began + wait - time.monotonic()) > 0:
        if not reminded and time.monotonic() > began + _PATIENCE:
            reminded = True
            _tell(reminder())
        door.settimeout(min(1.0, left))
        with contextlib.suppress(TimeoutError):
            visitor = door.accept()[0]
            try:
                hello = _hear(visitor)
            except (OSError, ValueError, KeyError, TypeError):
                visitor.close()  # no process of a run
                continue
            yield visitor, hello


def _absent(seat: Seat, here: Mapping[int, Hello]) -> str:
    absent = [seat.name(process) for process in range(seat.processes) if process not in here]
    shown = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    return (
        shown if len(absent) == 1 else shown.replace("process ", "processes ", 1).replace(", process ", ", ")
    )


def _seat_taken(seat: Seat, here: Mapping[int, Hello], hello: Hello) -> str | None:
    if hello.processes != seat.processes:
        return f"{hello.name} was started with --processes={hello.processes}, process 0 with {seat.processes}"
    if hello.process in here:
        return f"two processes are number {hello.process}: on {here[hello.process].host} and on {hello.host}"
    return None


def _hear(visitor: socket.socket) -> Hello:
    visitor.settimeout(2.0)
    line, arrived = _line(visitor), time.time()
    said = json.loads(line)
    return Hello(
        int(said["process"]),
        int(said["processes"]),
        str(said["host"]),
        dict(said["facts"]),
        arrived - said["time"],
    )


def _visit(seat: Seat, mine: Hello, wait: float) -> None:
    """Another process: says hello as soon as process 0 listens, and waits for its word."""
    host, _, port = seat.coordinator.rpartition(":")
    deadline = time.monotonic() + wait
    while True:
        try:
            door = socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise MissingError(
                    f"process 0 did not answer at {seat.coordinator} within {wait:.0f} s ({reason})"
                ) from None
            time.sleep(0.2)
    with door:
        said = dataclasses.asdict(mine) | {"time": time.time()}
        _say(door, said)
        # Process 0 may have begun to wait later than this one.
        door.settimeout(wait + _PATIENCE)
        try:
            answer = json.loads(_line(door))
        except (OSError, ValueError):
            raise MissingError(f"process 0 at {seat.coordinator} left before all had come") from None
    if answer["error"] is not None:
        raise ToldError(answer["error"], answer["code"])


def _say(other: socket.socket, data: Mapping[str, Any]) -> None:
    other.sendall(json.dumps(data).encode() + b"\n")


def _line(other: socket.socket) -> bytes:
    with other.makefile("rb") as file:
        return file.readline()


# ---------------------------------------------------------------------------------------------- join


def join(seat: Seat) -> None:
    """Makes the processes, which have met, one JAX."""
    if seat.processes == 1 and seat.devices is None:
        return
    jax.distributed.initialize(
        seat.coordinator,
        seat.processes,
        seat.process,
        seat.devices,
        # Under SLURM it would give each process one device of its node, also where it is alone there.
        cluster_detection_method="deactivate",
        coordinator_bind_address=bind_address(seat.coordinator) if seat.process == 0 else None,
    )


# ---------------------------------------------------------------------------------------------- notes


class Notes:
    """Records by kind and process, which all processes can write and read; they survive whoever wrote them."""

    def __init__(self, client: Any, process: int, processes: int) -> None:
        self._client, self.process, self.processes = client, process, processes

    def write(self, kind: str, data: Any) -> None:
        """This process's record of that kind."""
        self._client.key_value_set(f"{_PREFIX}/{kind}/{self.process}", json.dumps(data), allow_overwrite=True)

    def read(self, kind: str) -> dict[int, Any]:
        """The records of that kind of all processes that wrote one."""
        entries = self._client.key_value_dir_get(f"{_PREFIX}/{kind}/")
        return {int(key.rpartition("/")[2]): json.loads(value) for key, value in entries}

    def wait(self, kind: str, processes: int, seconds: float) -> dict[int, Any]:
        """The records of that kind, once there are so many of them; fewer after the time is up.

        Raises when a process has left, with what it said.
        """
        began = time.monotonic()
        while True:
            found, waited = self.read(kind), time.monotonic() - began
            if len(found) >= processes:
                return found
            self.raise_if_left()
            if waited > seconds:
                return found
            time.sleep(min(max(waited / 10, 0.02), 1.0))

    def raise_if_left(self) -> None:
        """Raises what another process left with."""
        for process, left in sorted(self.read("left").items()):
            if process != self.process:
                raise LeftError(process, left["host"], left["code"], left["text"])


class LeftError(RuntimeError):
    """Another process has left, and said why."""

    def __init__(self, process: int, host: str, code: int, text: str) -> None:
        super().__init__(f"process {process} ({host}) left: {text}")
        self.process, self.host, self.code, self.text = process, host, code, text


def notes() -> Notes | None:
    """What the processes of this run tell each other; None for a single process."""
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None or distributed.global_state.num_processes == 1:
        return None
    return Notes(client, distributed.global_state.process_id, distributed.global_state.num_processes)


# ---------------------------------------------------------------------------------------------- leave

_leaving = threading.Lock()


def leave(code: int, text: str, *, without: Collection[int] = ()) -> NoReturn:
    """Ends this process with the others: process 0 says why, and goes last, but for those `without` which it goes.

    JAX's own end is passed by: it waits minutes for processes that hang, and aborts those that lose process 0.
    """
    _leaving.acquire()  # for ever: whoever comes second has nothing to add
    agreed = [code]

    def agree() -> None:
        with contextlib.suppress(Exception):  # whatever is broken by now, the code is what counts
            agreed.append(_agree(code, text, without))

    talk = threading.Thread(target=agree, name="leave", daemon=True)  # process 0 may never answer
    talk.start()
    talk.join(3 * _PATIENCE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(agreed[-1])


def _agree(code: int, text: str, without: Collection[int]) -> int:
    mine = notes()
    if mine is None:
        _tell(text)
        return code
    mine.write("left", {"host": socket.gethostname(), "code": code, "text": text})
    if mine.process == 0:
        _tell(text)
        mine.write("verdict", {"code": code, "text": text})
        others = set(range(1, mine.processes)) - set(without)  # who is dead will not say that it is gone
        for _ in moments(_PATIENCE / 2):
            if others <= mine.read("gone").keys():
                break
        time.sleep(0.5)  # the others are gone a moment after they say so, on a busy machine, too
        return code
    for _ in moments(_PATIENCE):
        if verdict := mine.read("verdict"):
            code = verdict[0]["code"]
            break
    else:
        _tell(text)
    mine.write("gone", True)
    return code


def _tell(text: str) -> None:
    print(" ".join(text.splitlines()), file=sys.stderr, flush=True)


def moments(seconds: float) -> Iterator[None]:
    """Times to look again, until so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
