"""Compiled programs are kept between starts: a run that is started again compiles nothing that it has compiled before.

    WORKDIR/compiled/cpu-3f2a91c0/jit_step-KEY-cache        JAX's persistent compilation cache, one folder a run

JAX's key is a hash of the program, of the devices, of the compiler's options and flags, and of the versions of JAX and
XLA: whatever changes one of them has another entry, and nothing is ever taken for something else. It leaves out the
instructions that a CPU knows, and code for one CPU may end a process on another: so a CPU's folder is named after them.

Only process 0 writes (that is JAX's rule), and a workdir belongs to one run, so no two writers meet; others read where
they see the same folder and compile where they do not. JAX writes an entry in place, so a process that is killed, or a
full disk, leaves a part of one, which would be told and passed over at every start: such parts are removed first. An
entry is machine code that is run, so whoever may write to a workdir may run code in its runs.

A cache that the user has chosen (JAX_COMPILATION_CACHE_DIR) is used in place of this one, and left as it is.
"""

import contextlib
import hashlib
import pathlib
import platform
import re
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

FOLDER, THRESHOLD = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
LEAST = 0.1  # seconds; what compiles faster is not worth a file


@contextlib.contextmanager
def kept(folder: pathlib.Path | None) -> Iterator[None]:
    """What is compiled inside is kept in the folder, and found there again; None keeps nothing."""
    if folder is None or getattr(jax.config, FOLDER) is not None:
        yield
        return
    where = folder / machine()
    if jax.process_index() == 0:
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot make {where} for compiled programs ({error.strerror}): set train.compiled to another folder, "
                f"or to none"
            ) from None
        sweep(where)
    settings = {FOLDER: str(where), THRESHOLD: LEAST}
    before = {name: getattr(jax.config, name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: dict[str, object]) -> None:
    """JAX looks at its settings when it first compiles; it is told to look again."""
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def machine() -> str:
    """A name for what compiled code depends on and JAX's key leaves out."""
    kind = jax.default_backend()
    return f"cpu-{hashlib.sha256(instructions().encode()).hexdigest()[:8]}" if kind == "cpu" else kind


def instructions() -> str:
    """What this machine's CPU is and what it knows, in its own words."""
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        found = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", text, re.MULTILINE)
        if found:
            return "\n".join(sorted(set(found)))
    return f"{platform.machine()} {platform.processor()}"


def sweep(folder: pathlib.Path) -> None:
    """Removes entries that were written in part."""
    from jax._src.compilation_cache import decompress_executable

    for entry in folder.glob("*-cache"):
        try:
            decompress_executable(entry.read_bytes())
        except Exception:  # zlib's or zstandard's own, whichever JAX has found
            entry.unlink(missing_ok=True)
