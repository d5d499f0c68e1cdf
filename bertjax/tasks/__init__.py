"""Tasks: one file each, one line each in the registry below."""

from bertjax.tasks.answer import Answer
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
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.clm import Clm
from bertjax.tasks.contrastive import Contrastive
from bertjax.tasks.embed import Embed
from bertjax.tasks.generator import Generator
from bertjax.tasks.judge import Judge
from bertjax.tasks.labelled import LabelledTask, labelled
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.regress import Regress
from bertjax.tasks.restore import Restore
from bertjax.tasks.rtd import Rtd
from bertjax.tasks.sbo import Sbo
from bertjax.tasks.sop import Sop
from bertjax.tasks.tag import Tag
from bertjax.tasks.translate import Translate

__all__ = [
    "TASKS",
    "LabelledTask",
    "Task",
    "check",
    "corrupt",
    "flops_per_token",
    "labelled",
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
    "classify": Classify(),
    "regress": Regress(),
    "tag": Tag(),
    "answer": Answer(),
    "choose": Choose(),
    "embed": Embed(),
    "judge": Judge(),
    "translate": Translate(),
}
