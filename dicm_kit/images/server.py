"""The image-server step: every picture of a batch computed once, however often it is referred to."""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed, nn

from dicm_kit.errors import ImageError, some
from dicm_kit.exchange.agree import all_same, raise_together
from dicm_kit.exchange.ahead import Ahead, Job
from dicm_kit.exchange.all_to_all import Asked, Exchange, LocalExchange, RankExchange
from dicm_kit.exchange.dedup import distinct
from dicm_kit.exchange.traffic import Traffic
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.store import PartitionedStore, PictureStore
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.types import Pictures

PATIENCE = 2.0
"""Seconds for what was begun ahead to end when the ranks part; a job may wait for a rank that has gone."""


@dataclass(frozen=True)
class Prepared:
    """What a step's pictures need before any parameter is looked at: who asks for what, and what the store has."""

    row_K: Int[Tensor, " K"]
    """Of each reference, its row in the table of vectors; 0: no picture."""
    references: int
    distinct: int
    """U"""
    asked: Asked
    rows: Tensor
    """What the store has for each key that this rank serves: [V, C], or pixels [V, 3, H, W]."""
    found_V: Bool[Tensor, " V"]
    wide_UC: Float[Tensor, "U C"] | None
    """The backbone vectors of the asked keys, marked, where they travel and no backbone is trained."""
    traffic: Traffic | None = None
    """What it cost, where that is not counted yet."""

    def to(self, device: torch.device) -> "Prepared":
        """Returns it with its tensors on `device`."""
        tensors = {name: getattr(self, name) for name in ("row_K", "rows", "found_V", "wide_UC")}
        moved: dict[str, Any] = {
            n: None if each is None else each.to(device, non_blocking=True) for n, each in tensors.items()
        }
        return replace(self, asked=self.asked.to(device), **moved)


class ImageServer(nn.Module):
    """Picture keys -> picture vectors: dedup, fetch from the owners, and back to every reference.

    With a `backbone` (a trained one) the store gives pixels, without one the vectors of a frozen backbone.
    On several ranks `spread` shares the pictures out; until then one rank has them all. `transport` says what travels
    between ranks: "vectors" [U, I], embedded once by the owner (AMS), or "backbone_vectors" [U, C], embedded by every
    rank that asks (the paper's store-in-server, to compare with).
    `look_ahead` begins with the pictures of a later step while this one computes; the result is the same to the bit.
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
        self._ahead = Ahead("pictures of the next step")
        self._asking: Exchange = LocalExchange()
        """Used by the thread that looks ahead, and by nobody else."""

    def spread(self, group: distributed.ProcessGroup, ahead: distributed.ProcessGroup | None = None) -> None:
        """Shares the pictures out: this rank serves the partitions p with p % R == rank, and asks others for the rest.

        Collective. Takes process groups that are used for nothing else: `ahead` is one for tensors on CPU (gloo), for
        `look_ahead`. ImageError, the same on all ranks, when there are more ranks than partitions, when ranks have
        different pictures, or when one cannot open its partitions.
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
        if ahead is not None:
            self._asking = RankExchange(ahead, store.num_partitions)

    @property
    def sends_ahead(self) -> bool:
        """Whether `look_ahead` sends vectors, too: those of a frozen backbone hang on no parameter."""
        return self.transport == "backbone_vectors" and self.backbone is None

    @property
    def leg(self) -> str:
        """What of the exchange is under way in this step; empty between fetches."""
        leg = self.exchange.leg
        return f"{self._asking.leg or 'keys'}, begun ahead" if leg == "wait" else leg

    def end_look_ahead(self) -> None:
        """To be called when nothing more is to be looked ahead for: lets what was begun end, and its thread."""
        self._ahead.close(PATIENCE)

    def part(self) -> None:
        """To be called when the process groups of `spread` go."""
        self.end_look_ahead()
        for exchange in (self.exchange, self._asking):
            if isinstance(exchange, RankExchange):
                exchange.close()

    def gather(self) -> None:
        """Undoes `spread`: this rank has all pictures again."""
        store, traffic = self._partitioned(), self.exchange.traffic
        store.serve(range(store.num_partitions))
        self.exchange, self._asking = LocalExchange(), LocalExchange()
        self.exchange.traffic = traffic

    def _partitioned(self) -> PartitionedStore:
        assert hasattr(self.store, "serve"), "pictures can be shared out only from a store of partitions"
        return cast(PartitionedStore, self.store)

    def look_ahead(
        self,
        target_key_N: Int[Tensor, " N"] | None,
        history_key_GL: Int[Tensor, "G L"] | None,
        mask_GL: Bool[Tensor, "G L"],
    ) -> Job[Prepared] | None:
        """Begins the exchange of keys and the store's lookup for a later `forward`, beside what is going on.

        Takes the keys on CPU; its result is for that `forward`. Collective where there are several ranks, in the order
        of the calls; with the process group that `spread` was given for it. None where no picture is asked for.
        An error, a picture that is missing for instance, is raised by that `forward`.
        """
        keys_K = _references(target_key_N, history_key_GL, mask_GL)
        if keys_K is None:
            return None
        assert self._asking.num_ranks == self.exchange.num_ranks, "`spread` was given a group to look ahead with"
        pin = next(self.embedder.parameters()).is_cuda

        def prepare() -> Prepared:
            with self._asking.counted_apart() as cost:
                prepared = self._prepare(keys_K, self._asking)
            if pin:
                prepared = replace(prepared, rows=prepared.rows.pin_memory())
            return replace(prepared, traffic=cost)

        return self._ahead.do(prepare)

    def forward(
        self,
        target_key_N: Int[Tensor, " N"] | None,
        history_key_GL: Int[Tensor, "G L"] | None,
        mask_GL: Bool[Tensor, "G L"],
        ahead: Job[Prepared] | None = None,
    ) -> Pictures:
        """Returns the picture vectors of targets and history; None in, None out.

        `ahead`: what `look_ahead` returned for the same keys. Collective where there are several ranks. The result
        hangs on every parameter of embedder and backbone even when no picture is asked for: DDP waits for a gradient
        of each.
        """
        if ahead is None:
            keys_K = _references(target_key_N, history_key_GL, mask_GL)
            if keys_K is None:
                return Pictures(target_NI=None, history_GLI=None, mask_GL=torch.zeros_like(mask_GL))
            prepared = self._prepare(keys_K, self.exchange)
        else:
            with self.exchange.under_way("wait"):
                prepared = ahead.result()
            prepared = prepared.to(mask_GL.device)
            assert prepared.traffic is not None, "it was counted apart"
            self.exchange.traffic += prepared.traffic
        self.counters["steps"] += 1
        self.counters["references"] += prepared.references
        self.counters["distinct"] += prepared.distinct
        table_MI, known_M = self._table(prepared)
        vectors_KI = table_MI.index_select(0, prepared.row_K)  # on CPU faster than `embedding`, backward most of all
        known_K = known_M[prepared.row_K]
        num_targets = 0 if target_key_N is None else target_key_N.shape[0]
        return Pictures(
            target_NI=None if target_key_N is None else vectors_KI[:num_targets],
            history_GLI=None if history_key_GL is None else vectors_KI[num_targets:].view(*mask_GL.shape, self.dim),
            mask_GL=torch.zeros_like(mask_GL) if history_key_GL is None else known_K[num_targets:].view(mask_GL.shape),
        )

    def _prepare(self, keys_K: Int[Tensor, " K"], exchange: Exchange) -> Prepared:
        """Does everything that no parameter is needed for; `exchange` may be another one than that of the vectors."""
        place = keys_K.nonzero().squeeze(1)
        keys_U, inverse = distinct(keys_K[place])
        row_K = torch.zeros_like(keys_K).index_copy_(0, place, inverse + 1)
        asked = exchange.ask(keys_U)
        with exchange.under_way("lookup"):
            rows, found_V = self._lookup(asked.keys_V)
        wide_UC = None
        if self.sends_ahead:
            wide_UC = exchange.answer(asked, _marked(rows, found_V))
        return Prepared(row_K, place.shape[0], keys_U.shape[0], asked, rows, found_V, wide_UC)

    def _table(self, prepared: Prepared) -> tuple[Float[Tensor, "M I"], Bool[Tensor, " M"]]:
        """Returns the table of vectors, and which rows hold a picture; row 0 holds zeros."""
        found_V = prepared.found_V
        if self.transport == "vectors":
            with self.exchange.under_way("compute"):
                narrow_VI = _marked(self._embed(self._through_backbone(prepared.rows)), found_V)
            vectors_UI, known_U = _unmarked(self.exchange.answer(prepared.asked, narrow_VI))
        else:
            came_UC = prepared.wide_UC
            if came_UC is None:
                with self.exchange.under_way("compute"):
                    wide_VC = _marked(self._through_backbone(prepared.rows), found_V)
                came_UC = self.exchange.answer(prepared.asked, wide_VC)
            wide_UC, known_U = _unmarked(came_UC)
            vectors_UI = self._embed(wide_UC).masked_fill(~known_U[:, None], 0)
        return nn.functional.pad(vectors_UI, (0, 0, 1, 0)), nn.functional.pad(known_U, (1, 0))

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
        return self.backbone(_to_a_common_size(rows))[: rows.shape[0]]

    def _embed(self, wide_VC: Tensor) -> Float[Tensor, "V I"]:
        parameter = next(self.embedder.parameters())
        if torch.is_autocast_enabled(wide_VC.device.type):
            wide_VC = wide_VC.to(torch.get_autocast_dtype(wide_VC.device.type))
        else:
            wide_VC = wide_VC.to(parameter.dtype)
        # float32 from here on: a picture's gradient is the sum over its references, and bfloat16 cannot count
        return self.embedder(wide_VC).to(parameter.dtype)


def _to_a_common_size(pixels_V3HW: Tensor) -> Tensor:
    """Returns the pixels with black pictures behind them, at most a sixteenth more.

    Steps then come in few sizes, for which oneDNN and cuDNN prepare convolutions once, and whose activations fit into
    what the steps before have left: with a size of its own for each step, memory grew for hundreds of steps.
    """
    num_pictures = pixels_V3HW.shape[0]
    missing = -num_pictures % 2 ** max(0, num_pictures.bit_length() - 5)
    if not missing:
        return pixels_V3HW
    black = torch.zeros_like(pixels_V3HW[:1]).expand(missing, -1, -1, -1)
    return torch.cat([pixels_V3HW, black])


def _references(target_key_N: Tensor | None, history_key_GL: Tensor | None, mask_GL: Tensor) -> Tensor | None:
    """Returns the keys [K] of all references, 0 where there is no picture; None when none is asked for."""
    keys = [] if target_key_N is None else [target_key_N]
    if history_key_GL is not None:
        keys.append((history_key_GL * mask_GL).flatten())
    return torch.cat(keys) if keys else None


def _marked(vectors_VD: Tensor, found_V: Tensor) -> Tensor:
    """Marks pictures that the owner does not know by the smallest number there is.

    A flag beside each vector would be one more number to send, and a NaN would pass for a broken net.
    """
    return vectors_VD.masked_fill(~found_V[:, None], torch.finfo(vectors_VD.dtype).min)


def _unmarked(vectors_UD: Tensor) -> tuple[Tensor, Bool[Tensor, " U"]]:
    """Returns the vectors, zeros for unknown pictures, and which are known."""
    known_U = vectors_UD.detach()[:, 0] != torch.finfo(vectors_UD.dtype).min
    return vectors_UD.masked_fill(~known_U[:, None], 0), known_U
