"""The image-server step: every picture of a batch computed once, however often it is referred to."""

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed, nn

from dicm_kit.errors import ImageError, some
from dicm_kit.exchange.agree import all_same, raise_together
from dicm_kit.exchange.all_to_all import Exchange, LocalExchange, RankExchange
from dicm_kit.exchange.dedup import distinct
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.store import PartitionedStore, PictureStore
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.types import Pictures


class ImageServer(nn.Module):
    """Picture keys -> picture vectors: dedup, fetch from the owners, and back to every reference.

    With a `backbone` (a trained one) the store gives pixels, without one the vectors of a frozen backbone.
    On several ranks `spread` shares the pictures out; until then one rank has them all. `transport` says what travels
    between ranks: "vectors" [U, I], embedded once by the owner (AMS), or "backbone_vectors" [U, C], embedded by every
    rank that asks (the paper's store-in-server, to compare with).
    Key 0, and with `missing="zeros"` every key that the store does not know, gives zeros and has no part in anything.
    ImageError when a rank has to compute more than `max_distinct` pictures in one step.
    """

    def __init__(
        self,
        store: PictureStore,
        embedder: Embedder,
        backbone: ImageBackbone | None = None,
        exchange: Exchange | None = None,
        missing: Literal["zeros", "error"] = "zeros",
        transport: Literal["vectors", "backbone_vectors"] = "vectors",
        max_distinct: int | None = None,
    ):
        super().__init__()
        self.store, self.embedder, self.backbone = store, embedder, backbone
        self.exchange, self.missing = exchange or LocalExchange(), missing
        self.transport, self.max_distinct = transport, max_distinct
        self.dim = embedder.dim
        """I"""
        self.counters = {"steps": 0, "references": 0, "distinct": 0}
        """Since the start: forwards, picture references in them, and pictures computed for them."""

    def spread(self, group: distributed.ProcessGroup) -> None:
        """Shares the pictures out: this rank serves the partitions p with p % R == rank, and asks others for the rest.

        Collective. Takes a process group that is used for nothing else. ImageError, the same on all ranks, when there
        are more ranks than partitions, when ranks have different pictures, or when one cannot open its partitions.
        """
        store = self._partitioned()
        rank, num_ranks = distributed.get_rank(group), distributed.get_world_size(group)
        all_same("the pictures of the ranks", store.identity, group)  # first: a rank that left now would cut off others
        if num_ranks > store.num_partitions:
            raise ImageError(
                f"{num_ranks} ranks cannot share {store.num_partitions} partitions of pictures",
                where="`data.partitions`",
                todo="Use fewer ranks, or prepare the dataset with at least as many partitions.",
            )
        error = None
        try:
            store.serve(range(rank, store.num_partitions, num_ranks))
        except ImageError as mine:
            error = mine
        raise_together(error, group)
        traffic = self.exchange.traffic
        self.exchange = RankExchange(group, store.num_partitions)
        self.exchange.traffic = traffic  # a run may test after it has trained

    def part(self) -> None:
        """To be called when the process group of `spread` goes."""
        if isinstance(self.exchange, RankExchange):
            self.exchange.close()

    def gather(self) -> None:
        """Undoes `spread`: this rank has all pictures again."""
        store, traffic = self._partitioned(), self.exchange.traffic
        store.serve(range(store.num_partitions))
        self.exchange = LocalExchange()
        self.exchange.traffic = traffic

    def _partitioned(self) -> PartitionedStore:
        assert hasattr(self.store, "serve"), "pictures can be shared out only from a store of partitions"
        return cast(PartitionedStore, self.store)

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
        if self.transport == "vectors":
            vectors_UI, known_U = _unmarked(self.exchange.fetch(keys_U, self._narrow))
        else:
            wide_UC, known_U = _unmarked(self.exchange.fetch(keys_U, self._wide))
            vectors_UI = self._embed(wide_UC).masked_fill(~known_U[:, None], 0)
        table_MI = nn.functional.pad(vectors_UI, (0, 0, 1, 0))
        return row_K, table_MI, nn.functional.pad(known_U, (1, 0))

    def _narrow(self, keys_V: Tensor) -> Float[Tensor, "V I"]:
        """Returns the picture vectors of what this rank serves; those that its store does not know are marked."""
        rows, found_V = self._lookup(keys_V)
        return _marked(self._embed(self._through_backbone(rows)), found_V)

    def _wide(self, keys_V: Tensor) -> Float[Tensor, "V C"]:
        """Returns the backbone's vectors, in the same way, in the type that they are stored or computed in."""
        rows, found_V = self._lookup(keys_V)
        return _marked(self._through_backbone(rows), found_V)

    def _lookup(self, keys_V: Tensor) -> tuple[Tensor, Bool[Tensor, " V"]]:
        if self.max_distinct is not None and keys_V.shape[0] > self.max_distinct:
            todo = "Fewer impressions a step, shorter histories, more ranks to share them; or allow more."
            what = f"a step has {keys_V.shape[0]:,} distinct pictures for this rank, more than {self.max_distinct:,}"
            raise ImageError(what, where="`images.max_distinct`", todo=todo)
        rows, found_V = self.store.lookup(keys_V)
        if self.missing == "error" and not bool(found_V.all()):
            unknown = keys_V[~found_V].tolist()
            todo = "Extract again, or write `missing: zeros` to do without."
            raise ImageError(f"the store has no picture {some(unknown)}", where="`images.missing`", todo=todo)
        return rows, found_V

    def _through_backbone(self, rows: Tensor) -> Float[Tensor, "V C"]:
        if self.backbone is None:
            return rows
        if rows.shape[0] == 0:  # not every model takes an empty batch: a black picture goes through, and is cut off
            return self.backbone(rows.new_zeros(1, *rows.shape[1:]))[:0]
        return self.backbone(rows)

    def _embed(self, wide_VC: Tensor) -> Float[Tensor, "V I"]:
        parameter = next(self.embedder.parameters())
        if torch.is_autocast_enabled(wide_VC.device.type):
            wide_VC = wide_VC.to(torch.get_autocast_dtype(wide_VC.device.type))
        else:
            wide_VC = wide_VC.to(parameter.dtype)
        # float32 from here on: a picture's gradient is the sum over its references, and bfloat16 cannot count
        return self.embedder(wide_VC).to(parameter.dtype)


def _marked(vectors_VD: Tensor, found_V: Tensor) -> Tensor:
    """Marks pictures that the owner does not know by the smallest number there is.

    A flag beside each vector would be one more number to send, and a NaN would pass for a broken net.
    """
    return vectors_VD.masked_fill(~found_V[:, None], torch.finfo(vectors_VD.dtype).min)


def _unmarked(vectors_UD: Tensor) -> tuple[Tensor, Bool[Tensor, " U"]]:
    """Returns the vectors, zeros for unknown pictures, and which are known."""
    known_U = vectors_UD.detach()[:, 0] != torch.finfo(vectors_UD.dtype).min
    return vectors_UD.masked_fill(~known_U[:, None], 0), known_U
