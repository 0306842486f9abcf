"""What the engine has on the devices: the model, the slots and the prefixes. For one thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from stts_jax.config import ModelConfig
from stts_jax.inference.cpu_cache import MOST_BYTES
from stts_jax.inference.decoding import decoding_keys
from stts_jax.inference.engine.prefix_cache import CachedMedia, PrefixCache
from stts_jax.inference.engine.programs import Programs
from stts_jax.inference.engine.requests import MediaRow, Request, SeenMedia
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.engine.slot_cache import new_cache
from stts_jax.inference.engine.slots import RowSampling, Slots, empty_slots
from stts_jax.inference.prefix import Prefix, empty_prefix, read_media, resized
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of, put_whole_batch, replicated
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.parallel.platform import row_length
from stts_jax.size_buckets import adaptive_budgets


class DeviceSide:
    """The model, the slots of the decode batch, and the prefixes that are kept.

    Attributes:
      cache: the prefixes.
      is_whole: whether the slots are there; a program that fails may have lost them.
    """

    def __init__(self, model: VideoLanguageModel, end_token: int, settings: EngineSettings) -> None:
        """Takes the memory of the slots."""
        self.cache = PrefixCache(settings.cache_bytes)
        self.is_whole = True
        self._model, self._end_token, self._settings = model, end_token, settings
        self._mesh = mesh_of(model)
        self._models: dict[ModelConfig, VideoLanguageModel] = {}
        self._empty = empty_prefix(model)
        self._current: CachedMedia | None = None  # of the request that is about to join
        self._slots = self._new_slots()
        self._programs = Programs(model, by_layer=_is_by_layer(model))

    def reset(self) -> None:
        """Empties the slots."""
        self._slots = self._new_slots()
        self.is_whole = True

    def is_new(self, key: str | None) -> bool:
        """Returns whether media have to be read."""
        return key is not None and key not in self.cache

    def read(self, request: Request, key: str | None) -> SeenMedia | None:
        """Reads the media of a request unless their prefix is kept; returns what stayed of them."""
        self._current = None
        if request.media is None or key is None:
            return None
        found = self.cache.get(key)
        cached = found is not None
        if found is None:
            self.cache.make_room(self._most_bytes(request.media))
            found = self._read(request.media, request.seed)
            self.cache.put(key, found)
        self._current = found
        return SeenMedia(found.before, found.after, found.keep, found.scores, cached)

    def join(self, slot: int, request: Request, question: np.ndarray) -> int:
        """Lets the request whose media were read last join a slot; returns its first token."""
        prefix = self._empty if self._current is None else self._current.prefix
        self._current = None
        return self._join(slot, prefix, question, request)

    def step(self) -> jax.Array:
        """Starts a step of all slots; returns (steps, S) tokens that may not be there yet."""
        slots, self.is_whole = self._slots, False
        self._slots, tokens = self._programs.step(
            slots, self._settings.steps, self._end_token, self._mesh
        )
        self.is_whole = True
        return tokens

    def warm_up(self, media: MediaRow | None, rooms: Sequence[int]) -> None:
        """Compiles what requests about such media run, while no slot is taken.

        Args:
          media: None for text alone.
          rooms: size buckets of questions.
        """
        prefixes = [self._empty] if media is None else self._prefixes_of(media)
        request = Request((0,), max_new_tokens=2)
        for prefix in prefixes:
            for room in rooms:
                question = np.full((1, room), -1, np.int32)
                question[0, 0] = 0
                self._join(0, prefix, question, request)
        self.step().block_until_ready()
        self.reset()

    def _prefixes_of(self, media: MediaRow) -> list[Prefix]:
        """Returns a prefix of each size that such media may have."""
        read = self._read(media, seed=0)
        return [resized(read.prefix, capacity) for capacity in self._capacities(media)]

    def _join(self, slot: int, prefix: Prefix, question: np.ndarray, request: Request) -> int:
        slots, self.is_whole = self._slots, False
        self._slots, token = self._programs.join(
            slots,
            prefix,
            question,
            np.int32(slot),
            np.int32(request.max_new_tokens),
            _row_sampling(request.sampling, request.seed),
            self._end_token,
            self._mesh,
        )
        first = int(token)
        self.is_whole = True
        return first

    def _read(self, media: MediaRow, seed: int) -> CachedMedia:
        model = self._models.get(media.model)
        if model is None:
            model = self._models[media.model] = reconfigure(self._model, media.model)
        key, _, _ = decoding_keys(_key(seed))
        read = read_media(model, put_whole_batch(media.batch, self._mesh), media.budget, key)
        frames = int(media.batch.num_images.max())
        length, after, keep, scores = jax.device_get(
            (read.prefix.length, read.visual, read.keep, read.scores)
        )
        capacity = min(each for each in self._capacities(media) if each >= length[0])
        before = int((media.batch.token_pooling >= 0).any(-1).sum())
        prefix = resized(read.prefix, capacity)
        return CachedMedia(prefix, before, int(after[0]), keep[0, :frames], scores[0, :frames])

    def _capacities(self, media: MediaRow) -> list[int]:
        """Returns the sizes that the prefix of such media may have."""
        if not media.model.prune.threshold:
            return [row_length(media.budget.tokens)]
        budgets = adaptive_budgets(media.budget, media.model.vit.patches)
        return [row_length(budget.tokens) for budget in budgets]

    def _most_bytes(self, media: MediaRow) -> int:
        llm = self._model.config.llm
        width = 2 * llm.layers * llm.kv_heads * llm.head_dim * self._model.dtype.itemsize
        return self._capacities(media)[-1] * width

    def _new_slots(self) -> Slots:
        model, settings = self._model, self._settings
        cache = new_cache(
            model.config.llm,
            settings.slots,
            settings.capacity,
            model.dtype,
            self._mesh,
            by_layer=_is_by_layer(model),
        )
        slots = empty_slots(cache, settings.slots)
        if self._mesh is None:
            return slots
        # As the programs return them: else they would be compiled for these and for those.
        whole = replicated(self._mesh)
        return jax.tree.map(
            lambda x: x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, whole),
            slots,
        )


def _is_by_layer(model: VideoLanguageModel) -> bool:
    """Returns whether a CPU decodes faster with blocks and cache by layer.

    As for one prompt (`cpu_cache`), but of small blocks too: they are copied once, not for each
    answer.
    """
    leaves, mesh = jax.tree.leaves(model.llm.blocks), mesh_of(model)
    alone = mesh is None or mesh.size == 1
    whole = all(leaf.dtype == jnp.float32 for leaf in leaves) and model.dtype == jnp.float32
    fits = sum(leaf.nbytes for leaf in leaves) <= MOST_BYTES
    return jax.default_backend() == "cpu" and alone and whole and fits


def _row_sampling(sampling: Sampling, seed: int) -> RowSampling:
    return RowSampling(
        np.float32(sampling.temperature),
        np.int32(sampling.top_k),
        np.float32(sampling.top_p),
        _key(seed),
    )


@lru_cache(maxsize=256)
def _key(seed: int) -> jax.Array:
    """Returns the key that `ask` takes of a seed."""
    return jax.random.fold_in(key_of_seed(seed), 0)
