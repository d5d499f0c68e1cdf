"""What a run computes with: network, optimizer, where arrays live, and the state before the first step.

Nothing is computed to know it: parameters are shapes with named axes until `create_state` makes them in their places.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax.sharding import Mesh

from bertjax import sharding, tasks
from bertjax.config import Config, TrainConfig, check
from bertjax.data.corpus import Vocabulary
from bertjax.data.labelled.buckets import abstract_labelled
from bertjax.data.loader import abstract_batch
from bertjax.inherit import inherit, open_source, place_parameters
from bertjax.models.network import Network
from bertjax.optim import make_optimizer
from bertjax.tasks import LabelledTask
from bertjax.tune import extend, forget, hold, merged, restrict
from bertjax.types import Batch, TrainState, Tree


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run computes with."""

    config: Config
    mesh: Mesh
    vocabulary: Vocabulary
    network: Network
    optimizer: optax.GradientTransformationExtraArgs
    batches: tuple[Batch, ...]  # shapes and shardings of every kind that a step may see, the longest first
    state: TrainState  # shapes and shardings

    @property
    def batch(self) -> Batch:
        """Shapes and shardings of the longest batch."""
        return self.batches[0]

    @property
    def parameters(self) -> int:
        """Their number."""
        return sharding.count(self.state.params)

    def apply(self, params: Tree, batch: Batch, *, train: bool, **options: Any) -> dict[str, Any]:
        """The outputs of the network; in training what never moves is constant, and a frozen encoder drops nothing."""
        tune = self.config.tune
        if train:
            params = hold(params, tune, self.config.model)
        alive = tune.trained != "heads" or tune.norms
        outputs: dict[str, Any] = self.bind(params)(batch, train=train and alive, **options)
        return outputs

    def bind(self, params: Tree) -> Callable[..., Any]:
        """The network with its parameters: (*inputs, method, variables besides the parameters, ...)."""
        whole = merged(params, self.config.tune)

        def apply(*inputs: Any, variables: Mapping[str, Tree] | None = None, **options: Any) -> Any:
            return self.network.apply({"params": whole, **(variables or {})}, *inputs, **options)

        return apply

    def idle(self, batch: Batch) -> frozenset[str]:
        """The heads that a batch teaches nothing: those of other tasks than its own."""
        heads = _heads(self.config)
        return frozenset(name for name, task in heads.items() if not task.serves(batch))

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Mesh and rules in force: everything is traced and run inside."""
        mesh = self.config.mesh
        return sharding.activate(self.mesh, mesh.rules, mesh.sequence_attention)


def build(
    config: Config,
    vocabulary: Vocabulary,
    devices: Any = None,
    *,
    segmented: bool = False,
    lengths: Mapping[str, Sequence[int]] | None = None,
) -> Program:
    """Resolves a config against a vocabulary and a machine, without computing anything.

    `segmented` tells of rows that say themselves where words start, `lengths` of those that the batches of each
    labelled task have; without them they are all of data.length.
    """
    check(config)
    if vocabulary.size > config.model.vocab:
        raise ValueError(
            f"the corpus has a vocabulary of {vocabulary.size}, more than model.vocab={config.model.vocab}: "
            f"set model.vocab={vocabulary.size}"
        )
    mesh, rules = sharding.make_mesh(config.mesh, devices), config.mesh.rules
    check_batch(config.train, mesh)
    network = tasks.make_network(config.tasks, config.model, config.heads)
    with sharding.activate(mesh, rules, config.mesh.sequence_attention):
        batches = _kinds(config, mesh, segmented, lengths or {})
        declared = declare(network, config, vocabulary, batches[0])
        params = meta.unbox(declared)
        several = len(tasks.labelled(config.tasks)) > 1
        heads = [
            name for name in sorted(_heads(config)) if several and name in params
        ]  # some have no parameters
        optimizer = make_optimizer(config.optim, config.train.steps, declared, heads)
        optimizer = restrict(optimizer, config.tune, params, config.model)
        opt_state = jax.eval_shape(optimizer.init, params)
        shardings = sharding.parameter_shardings(declared, mesh, rules)
        like = sharding.like_parameters(opt_state, params, shardings, mesh)
    place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh)),
        params=jax.tree.map(place, params, shardings),
        opt_state=jax.tree.map(place, opt_state, like),
    )
    return Program(config, mesh, vocabulary, network, optimizer, batches, state)


def _heads(config: Config) -> dict[str, LabelledTask]:
    """The branches of the parameters that belong to one labelled task each."""
    return {
        f"heads_{head}": task for task in tasks.labelled(config.tasks) for head in task.heads(config.model)
    }


def _kinds(
    config: Config, mesh: Mesh, segmented: bool, lengths: Mapping[str, Sequence[int]]
) -> tuple[Batch, ...]:
    """Every kind of batch: one of a corpus; of labelled records one for each task and length."""
    size, length, format, where = (
        config.train.batch_size,
        config.data.length,
        config.data.format,
        config.mesh.rules,
    )
    labelled = tasks.labelled(config.tasks)
    if not labelled:
        whole = {"packed": format.packed, "labelled": format.labelled, "segmented": segmented}
        return (abstract_batch(size, length, mesh, where, **whole),)
    kinds = [(each, task) for task in labelled for each in lengths.get(task.name, (length,))]
    kinds.sort(key=lambda kind: -kind[0])
    return tuple(
        abstract_labelled(task.name, task.targets(), task.group, size, each, mesh, where)
        for each, task in kinds
    )


def check_batch(train: TrainConfig, mesh: Mesh) -> None:
    """Refuses a batch that does not divide into equal parts."""
    replicas = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = replicas * train.microbatches
    if train.batch_size % unit:
        below = train.batch_size // unit * unit
        fitting = " or ".join(str(size) for size in (below, below + unit) if size)
        raise ValueError(
            f"train.batch_size={train.batch_size} does not divide into train.microbatches={train.microbatches} "
            f"over the {replicas} replicas of the mesh (data*fsdp): set train.batch_size={fitting}"
        )


def _init(network: Network, config: Config, vocabulary: Vocabulary) -> Callable[..., Tree]:
    def init(key: jax.Array, batch: Batch) -> Tree:
        batch = tasks.corrupt(config.tasks, batch, vocabulary, seed=0, step=0)
        return extend(network.init(key, batch, train=False)["params"], config.tune, key)

    return init


def declare(network: Network, config: Config, vocabulary: Vocabulary, batch: Batch) -> Tree:
    """Shapes of all parameters, each with the names of its axes."""
    key = jax.eval_shape(jax.random.key, 0)  # its shape only: the devices may be ones to compile for
    return jax.eval_shape(_init(network, config, vocabulary), key, batch)


def create_state(program: Program) -> TrainState:
    """The state before the first step, made where it will live."""
    init = _init(program.network, program.config, program.vocabulary)

    def create(seed: jax.Array) -> TrainState:
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.batch)
        params = meta.unbox(init(jax.random.key(seed), batch))
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=params, opt_state=program.optimizer.init(params)
        )

    shardings = jax.tree.map(lambda x: x.sharding, program.state)
    with program.active():
        return jax.jit(create, out_shardings=shardings)(program.config.train.seed)


def begin(program: Program) -> tuple[TrainState, str]:
    """The state before the first step, and where it is from: random numbers, or what another run has learned."""
    config, state = program.config, create_state(program)
    if config.model.init is None:
        return state, "from scratch"
    declared = declare(program.network, config, program.vocabulary, program.batch)
    source = open_source(config.model.init, scan=config.model.scan)
    taken, words = inherit(source, config, program.vocabulary, declared, state.params)
    known = place_parameters(taken, state.params)
    with program.active():
        params = forget(state.params, known, config.tune, config.model)
    return dataclasses.replace(state, params=params), words
