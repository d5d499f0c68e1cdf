"""Tasks: one file each, one line each in the registry below."""

from bertjax.tasks.base import (
    Task,
    check,
    corrupt,
    flops_per_token,
    make_network,
    normalisers,
    summarise,
    total_loss,
)
from bertjax.tasks.clm import Clm
from bertjax.tasks.contrastive import Contrastive
from bertjax.tasks.generator import Generator
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.restore import Restore
from bertjax.tasks.rtd import Rtd
from bertjax.tasks.sbo import Sbo
from bertjax.tasks.sop import Sop

__all__ = [
    "TASKS",
    "Task",
    "check",
    "corrupt",
    "flops_per_token",
    "make_network",
    "normalisers",
    "summarise",
    "total_loss",
]

TASKS: dict[str, Task] = {
    "mlm": Mlm(),
    "sbo": Sbo(),
    "nsp": Nsp(),
    "sop": Sop(),
    "clm": Clm(),
    "generator": Generator(),
    "rtd": Rtd(),
    "restore": Restore(),
    "contrastive": Contrastive(),
}
