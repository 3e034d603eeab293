"""A model of any architecture: its declaration compiled for a mesh, and the code of its modules on one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ..spmd.contract import Model as Declaration
from ..spmd.contract import Module
from ..spmd.families import declare
from ..spmd.mesh import Mesh, Parallelism
from ..spmd.placements import Weight
from ..spmd.plan import StepRows
from ..spmd.runtime.local_weights import LocalWeights
from ..spmd.runtime.place import Place
from ..spmd.runtime.stack import Norm, Stack
from .cache_layout import CacheLayout, CacheTensor
from .config import DecoderConfig
from .layers.feed_forward import Embedding, GatedMlp, Head, ResidualNorm
from .layers.latent_attention import LatentAttention
from .layers.module import Body, Parts, Step
from .layers.rope import RotaryTable
from .model import DecodePlan, StepInputs
from .weights import Weights

if TYPE_CHECKING:
    from ..run.kv_cache import KVCache

Maker = Callable[[Parts], Body]
"""Makes the code of a module out of its weights."""

ALONE = Mesh.of(Parallelism())
"""A world of one rank."""

COMMON: Mapping[str, Maker] = {"embed": Embedding, "head": Head, "mlp": GatedMlp}
"""What every decoder is made of, by the kind that its declaration names."""


class Decoder:
    """A decoder on one rank (`engine.models.model.Model`)."""

    def __init__(
        self,
        config: DecoderConfig,
        makers: Callable[[RotaryTable], Mapping[str, Maker]],
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        place: Place | None = None,
    ) -> None:
        """Read this rank's weights. `makers`: for each kind of module of this architecture the code that runs it.
        `place`: the rank; None is a world of one.

        Raises what `Weights.read` does.
        """
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_position_embeddings
        self.dtype = dtype
        self.device = device
        self.declared = declared = declare(config.declared)
        place = place or Place(ALONE)
        self._ranks = place.mesh.world
        self.cache_layout = cache_layout(declared, place.mesh, place.rank, dtype)
        local = LocalWeights(weights, place.mesh, place.rank, dtype=dtype, device=device)
        kinds = {**COMMON, **makers(RotaryTable(config.rope, config.max_position_embeddings, device))}
        caches = [module.name for module in declared.modules if module.cache is not None]
        self._latent: LatentAttention | None = None

        def body(module: Module) -> Body:
            layer = caches.index(module.name) if module.cache is not None else -1
            made = kinds[module.kind](Parts(module, local, layer))
            if isinstance(made, LatentAttention):
                self._latent = made
            return made

        def norm(weight: Weight) -> Norm:
            return ResidualNorm(weight, local, config.rms_norm_eps)

        plan = place.plan(declared)
        self.stack = Stack(plan, place.rank, body=body, norm=norm, communicator=place.communicator(plan))
        """What runs the plan; in a world of several attention groups it is called directly, with the rows of each."""

    def plan_decode(
        self, context_lens: torch.Tensor, *, row_tokens: int, block_size: int, max_context: int
    ) -> DecodePlan | None:
        """See `Model`."""
        if self._latent is None:
            return None
        return self._latent.plan_decode(context_lens, row_tokens=row_tokens, max_context=max_context)

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """See `Model`. The result has been through the final norm."""
        return self.stack.forward([input_ids], Step(step, cache), self._rows(len(input_ids), 0))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Model`."""
        return self.stack.logits(hidden, None, self._rows(0, len(hidden)))

    def _rows(self, tokens: int, sampled: int) -> StepRows | None:
        """The rows of each rank, if there are several: all serve the same requests."""
        return None if self._ranks == 1 else StepRows.single(self._ranks, tokens, sampled)


def cache_layout(declared: Declaration, mesh: Mesh, rank: int, dtype: torch.dtype) -> CacheLayout:
    """What a token adds to the cache on a rank: `keys` and `values` of its heads, or the `latent` of all."""
    layers = []
    for module in declared.modules:
        cache = module.cache
        if cache is None:
            continue
        if cache.placement is None:
            layers.append((CacheTensor("latent", (cache.values * cache.heads,), dtype),))
        else:
            shape = (cache.values_on(mesh, rank) // cache.values, cache.values // 2)
            layers.append((CacheTensor("keys", shape, dtype), CacheTensor("values", shape, dtype)))
    return CacheLayout(tuple(layers))
