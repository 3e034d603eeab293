"""A model of any architecture: its declaration compiled for a mesh, and the code of its modules on one rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

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
from .layers.attention import GroupedQueryAttention
from .layers.feed_forward import Embedding, GatedMlp, Head, ResidualNorm
from .layers.latent_attention import LatentAttention
from .layers.module import Body, Parts, Step
from .layers.rope import Rotary
from .model import DecodePlan, StepInputs
from .weights import Weights

if TYPE_CHECKING:
    from ..run.kv_cache import KVCache

Maker = Callable[[Parts], Body]
"""Makes the code of a module out of its weights."""

ALONE: Final = Mesh.of(Parallelism())
"""A world of one rank."""

COMMON: Final[Mapping[str, Maker]] = {"embed": Embedding, "mlp": GatedMlp}
"""What every decoder is made of besides its head, by the kind that its declaration names."""


class Decoder:
    """A decoder on one rank (`engine.models.model.Model`)."""

    def __init__(
        self,
        config: DecoderConfig,
        makers: Callable[[Rotary], Mapping[str, Maker]],
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        place: Place | None = None,
    ) -> None:
        """Read this rank's weights. `makers`: for each kind of module of this architecture the code that runs it.
        `place`: the rank; None is a world of one.

        Raises what `Weights.check` and `Weights.read` do.
        """
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_position_embeddings
        self.dtype = dtype
        self.device = device
        self.declared = declared = declare(config.declared)
        place = place or Place(ALONE)
        self._ranks = place.mesh.world
        weights.check(checkpoint_shapes(declared), config.ignored)
        self.cache_layout = cache_layout(declared, place.mesh, place.rank, dtype)
        local = CountedWeights(weights, place.mesh, place.rank, dtype=dtype, device=device)
        kinds = {**COMMON, **makers(Rotary(config.rope, device))}
        caches = [module.name for module in declared.modules if module.cache is not None]
        embedding: list[Embedding] = []
        self._attention: LatentAttention | GroupedQueryAttention | None = None

        def body(module: Module) -> Body:
            parts = Parts(module, local, caches.index(module.name) if module.cache is not None else -1)
            if module is declared.head:
                return Head(parts, embedding[0].matrix if config.tie_word_embeddings else None)
            made = kinds[module.kind](parts)
            if isinstance(made, Embedding):
                embedding.append(made)
            if isinstance(made, LatentAttention | GroupedQueryAttention):
                self._attention = made
            return made

        def norm(weight: Weight) -> Norm:
            return ResidualNorm(weight, local, config.rms_norm_eps)

        plan = place.plan(declared)
        self.stack = Stack(plan, place.rank, body=body, norm=norm, communicator=place.communicator(plan))
        """What runs the plan; in a world of several attention groups it is called directly, with the rows of each."""
        local.check(declared)

    def plan_decode(
        self, context_lens: torch.Tensor, *, row_tokens: int, block_size: int, max_context: int
    ) -> DecodePlan | None:
        """See `Model`."""
        if self._attention is None:
            return None
        return self._attention.plan_decode(context_lens, row_tokens=row_tokens, max_context=max_context)

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


class CountedWeights(LocalWeights):
    """A rank's weights, each of which must be read once: what is not read is a parameter that the code forgot."""

    def __init__(
        self, source: Weights, mesh: Mesh, rank: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(source, mesh, rank, dtype=dtype, device=device)
        self._reads: Counter[str] = Counter()

    def read(self, weight: Weight, dtype: torch.dtype | None = None) -> torch.Tensor:
        """See `LocalWeights`."""
        self._reads[weight.name] += 1
        return super().read(weight, dtype)

    def check(self, declared: Declaration) -> None:
        """Raises RuntimeError naming a declared weight that was not read exactly once."""
        for weight in declared.weights:
            if self._reads[weight.name] != 1:
                raise RuntimeError(f"{weight.name} was read {self._reads[weight.name]} times when the model was built")


def checkpoint_shapes(declared: Declaration) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of the model holds, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in declared.weights:
        if "{expert}" in weight.name:
            names = [weight.name.replace("{expert}", str(index)) for index in range(weight.shape[0])]
            shapes.update(dict.fromkeys(names, weight.shape[1:]))
        else:
            shapes[weight.name] = weight.shape
    return shapes


def cache_layout(declared: Declaration, mesh: Mesh, rank: int, dtype: torch.dtype) -> CacheLayout:
    """What a token adds to the cache on a rank: `keys` and `values` of its heads, or the `latent` of all."""
    layers: list[tuple[CacheTensor, ...]] = []
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
