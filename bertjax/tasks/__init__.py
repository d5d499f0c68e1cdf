"""Tasks: one file each, one line each in the registry below."""

from bertjax.tasks.base import Task, check, corrupt, normalisers, summarise, total_loss
from bertjax.tasks.clm import Clm
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.sop import Sop

__all__ = ["TASKS", "Task", "check", "corrupt", "normalisers", "summarise", "total_loss"]

TASKS: dict[str, Task] = {
    "mlm": Mlm(),
    "nsp": Nsp(),
    "sop": Sop(),
    "clm": Clm(),
}
