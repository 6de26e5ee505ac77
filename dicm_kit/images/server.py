"""The image-server step: every picture of a batch computed once, however often it is referred to."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dicm_kit.errors import ImageError, some
from dicm_kit.exchange.all_to_all import Exchange, LocalExchange
from dicm_kit.exchange.dedup import distinct
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.store import PictureStore
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.types import Pictures

# What an owner sends for a picture that it does not know: one number less to send than a flag beside each vector, and
# no NaN, which would pass for a broken net.
_UNKNOWN = torch.finfo(torch.float32).min


class ImageServer(nn.Module):
    """Picture keys -> picture vectors: dedup, fetch from the owners, and back to every reference.

    With a `backbone` (a trained one) the store gives pixels, without one the vectors of a frozen backbone.
    Key 0, and with `missing="zeros"` every key that the store does not know, gives zeros and has no part in anything.
    """

    def __init__(
        self,
        store: PictureStore,
        embedder: Embedder,
        backbone: ImageBackbone | None = None,
        exchange: Exchange | None = None,
        missing: Literal["zeros", "error"] = "zeros",
    ):
        super().__init__()
        self.store, self.embedder, self.backbone = store, embedder, backbone
        self.exchange, self.missing = exchange or LocalExchange(), missing
        self.dim = embedder.dim
        """I"""
        self.counters = {"steps": 0, "references": 0, "distinct": 0}
        """Since the start: forwards, picture references in them, and pictures computed for them."""

    def forward(
        self,
        target_key_N: Int[Tensor, " N"] | None,
        history_key_GL: Int[Tensor, "G L"] | None,
        mask_GL: Bool[Tensor, "G L"],
    ) -> Pictures:
        """Returns the picture vectors of targets and history; None in, None out.

        Collective where there are several ranks. The result hangs on every parameter of embedder and backbone even
        when no picture is asked for: DDP waits for a gradient of each.
        """
        asked = []
        if target_key_N is not None:
            asked.append(target_key_N)
        if history_key_GL is not None:
            asked.append((history_key_GL * mask_GL).flatten())
        if not asked:
            return Pictures(target_NI=None, history_GLI=None, mask_GL=torch.zeros_like(mask_GL))
        row_K, table_MI, known_M = self._fetch(torch.cat(asked))
        vectors_KI = table_MI.index_select(0, row_K)  # on CPU faster than `embedding`, backward most of all
        known_K = known_M[row_K]
        num_targets = 0 if target_key_N is None else target_key_N.shape[0]
        return Pictures(
            target_NI=None if target_key_N is None else vectors_KI[:num_targets],
            history_GLI=None if history_key_GL is None else vectors_KI[num_targets:].view(*mask_GL.shape, self.dim),
            mask_GL=torch.zeros_like(mask_GL) if history_key_GL is None else known_K[num_targets:].view(mask_GL.shape),
        )

    def _fetch(self, keys_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (row of each reference, table of vectors, which rows hold a picture); row 0 holds zeros."""
        place = keys_K.nonzero().squeeze(1)
        keys_U, inverse = distinct(keys_K[place])
        row_K = torch.zeros_like(keys_K).index_copy_(0, place, inverse + 1)
        self.counters["steps"] += 1
        self.counters["references"] += place.shape[0]
        self.counters["distinct"] += keys_U.shape[0]
        vectors_UI = self.exchange.fetch(keys_U, self._compute)
        known_U = vectors_UI.detach()[:, 0] != _UNKNOWN
        table_MI = nn.functional.pad(vectors_UI.masked_fill(~known_U[:, None], 0), (0, 0, 1, 0))
        return row_K, table_MI, nn.functional.pad(known_U, (1, 0))

    def _compute(self, keys_V: Tensor) -> Tensor:
        """Returns the vectors [V, I] of what this rank serves, `_UNKNOWN` for what its store does not know."""
        rows, found_V = self.store.lookup(keys_V)
        if self.missing == "error" and not bool(found_V.all()):
            unknown = keys_V[~found_V].tolist()
            todo = "Extract again, or write `missing: zeros` to do without."
            raise ImageError(f"the store has no picture {some(unknown)}", where="`images.missing`", todo=todo)
        return self._embed(rows).masked_fill(~found_V[:, None], _UNKNOWN)

    def _embed(self, rows: Tensor) -> Float[Tensor, "V I"]:
        parameter = next(self.embedder.parameters())
        if self.backbone is not None:
            if rows.shape[0] == 0:  # not every model takes an empty batch: a black picture goes through, and is cut off
                blank = rows.new_zeros(1, *rows.shape[1:])
                return self.embedder(self.backbone(blank))[:0].to(parameter.dtype)
            rows = self.backbone(rows)
        elif torch.is_autocast_enabled(rows.device.type):
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        else:
            rows = rows.to(parameter.dtype)
        # float32 from here on: a picture's gradient is the sum over its references, and bfloat16 cannot count
        return self.embedder(rows).to(parameter.dtype)
