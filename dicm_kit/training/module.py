"""`CtrModule`: the one file that knows the order of the stages from Batch to logit, and how a step trains them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from dicm_kit.errors import TrainingError, some
from dicm_kit.exchange.ahead import Ahead, Job
from dicm_kit.features.encoders import IdEncoder
from dicm_kit.features.sharded import AskedRows, ShardedTable, sharded_tables
from dicm_kit.features.tables import sparse_parameters
from dicm_kit.images.server import PATIENCE, ImageServer, Prepared
from dicm_kit.interfaces import BaseNet, FeatureEncoder, InterestAggregator
from dicm_kit.training.handed_on import check_padding, handed_on, interest_of
from dicm_kit.training.loss import StepTotals, add_over_ranks, share_of_global_mean, summed_loss
from dicm_kit.training.metrics import RankingMetrics
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan, clip_norm, clip_values, decay_schedule
from dicm_kit.training.per_impression import Repeat, Repeated
from dicm_kit.training.slices import Impressions, TargetSlices
from dicm_kit.types import Bag, Batch, Column, Columns, Encoded, Interest, Pictures, Prediction, Vectors

Side = Literal["user", "target", "context", "history"]
SIDES: tuple[Side, ...] = ("user", "target", "context", "history")


class CtrModule(LightningModule):
    """Features, pictures, interest, net, in this order; trained on the mean loss of the batch of all ranks.

    Logs `train/loss` each step, `val/*` and `test/*` (see `RankingMetrics`; slices only in `test/*`); Lightning keeps
    those in float32, `results["val"]` and `results["test"]` hold them in full.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, Mapping[str, FeatureEncoder]],
        server: nn.Module | None,
        image_target: bool,
        image_history: bool,
        interest: Mapping[str, InterestAggregator],
        net: BaseNet,
        optimizer: OptimizerPlan,
        slices: TargetSlices | None = None,
    ):
        """Takes the parts of a recipe.

        `encoders`: by side and column; a history encoder may be the target's own, which then shares its table.
        `server`: `images.server.ImageServer`, or None for a recipe without pictures. `interest`: by slot, `ids` and
        `images`. `slices`: what is needed to split test metrics by target; None: no slices.
        """
        super().__init__()
        # "_of": a column may be called `type` or `items`, which are attributes of a ModuleDict.
        self.encoders = nn.ModuleDict(
            {side: nn.ModuleDict({f"{name}_of": each for name, each in of.items()}) for side, of in encoders.items()}
        )
        self.server, self.image_target, self.image_history = server, image_target, image_history
        self.interest = nn.ModuleDict(dict(interest))
        self.net = net
        self.plan = optimizer
        self.ranking = nn.ModuleDict({"validation": RankingMetrics(), "test": RankingMetrics(slices, keep_rows=True)})
        self.results: dict[str, dict[str, float]] = {}
        self.totals: StepTotals | None = None
        """Of the last training step, over all ranks."""
        self.stop_requested = False
        """Set it to end the training, on all ranks, after the step that is running."""
        self.save_requested = False
        """Set it to have a checkpoint, on all ranks, after the next step."""
        self._warned: set[str] = set()
        self._tried: set[str] = set()
        """Slots whose aggregator was tried with other values in empty slots."""
        self._ahead = Ahead("ids of the next step")

    # --- stages 2 to 5 ---

    def forward(self, batch: Batch, need_weights: bool = False) -> Prediction:
        """Returns the prediction; with the aggregators' weights when asked for."""
        return self._stages(batch, need_weights).prediction

    def _stages(self, batch: Batch, need_weights: bool = False) -> "_Stages":
        encoded = self._encode(batch)
        pictures = self._pictures(batch)
        repeat = Repeat(batch)
        interest = self._interest(batch, encoded, pictures, repeat, need_weights)
        # From here on all is per impression; nobody else repeats groups.
        per_impression = replace(encoded, user={name: repeat(vector) for name, vector in encoded.user.items()})
        logit_N = handed_on("net", self.net, self.net(per_impression, pictures, interest), batch.num_impressions)
        return _Stages(encoded, pictures, Prediction(logit_N.float(), interest))

    def _encode(self, batch: Batch) -> Encoded:
        vectors: dict[Side, Vectors] = {side: {} for side in SIDES}
        rows_of = {"user": (batch.num_groups,), "history": tuple(batch.mask_GL.shape)}
        begun = batch.ahead.rows.result() if isinstance(batch.ahead, _Begun) and batch.ahead.rows else []
        rows = iter(begun)
        for side, name, encoder, column in self._columns(batch):
            if begun and (table := _sharded_table(encoder)) is not None:
                table.begun = next(rows)
            shape = *rows_of.get(side, (batch.num_impressions,)), cast(FeatureEncoder, encoder).out_dim
            vectors[side][name] = handed_on(f"features.{side}.{name}", encoder, encoder(column), *shape)
        return Encoded(**vectors, group_N=batch.group_N)

    def _columns(self, batch: Batch) -> Iterator[tuple[Side, str, nn.Module, Column]]:
        """Yields (side, name, encoder, column) in the order in which they are encoded."""
        columns: dict[Side, Columns] = {
            "user": batch.user,
            "target": batch.target,
            "context": batch.context,
            "history": batch.history,
        }
        for side in SIDES:
            if side in self.encoders:
                of_side = self.encoders[side]
                assert isinstance(of_side, nn.ModuleDict), "encoders are kept by side"
                for name, encoder in of_side.items():
                    yield side, name.removesuffix("_of"), encoder, columns[side][name.removesuffix("_of")]

    def look_ahead(self, batch: Batch) -> Batch:
        """Begins what needs no parameters for a batch, on CPU, that will come after the one that is computed now.

        That is which pictures and which rows of sharded tables are asked of whom, and the lookup of pictures.
        Collective in the order of the calls, like `ImageServer.look_ahead`: for every rank's data module, or for none.
        """
        pictures = rows = None
        if isinstance(self.server, ImageServer):
            pictures = self.server.look_ahead(*self._keys(batch))
        asking = [
            partial(table.ask_ahead, cast(IdEncoder, encoder).rows(column).flatten())
            for _, _, encoder, column in self._columns(batch)
            if (table := _sharded_table(encoder)) is not None
        ]
        if asking:
            rows = self._ahead.do(lambda: [ask() for ask in asking])
        return replace(batch, ahead=_Begun(pictures, rows))

    def end_look_ahead(self) -> None:
        """To be called when no batch comes any more."""
        self._ahead.close(PATIENCE)
        if isinstance(self.server, ImageServer):
            self.server.end_look_ahead()

    def _pictures(self, batch: Batch) -> Pictures | None:
        if self.server is None:
            return None
        begun = batch.ahead.pictures if isinstance(batch.ahead, _Begun) else None
        return self.server(*self._keys(batch), *([] if begun is None else [begun]))

    def _keys(self, batch: Batch) -> tuple[Tensor | None, Tensor | None, Tensor]:
        target_key_N = batch.target_key_N if self.image_target else None
        return target_key_N, batch.history_key_GL if self.image_history else None, batch.mask_GL

    def _interest(
        self, batch: Batch, encoded: Encoded, pictures: Pictures | None, repeat: Repeat, need_weights: bool
    ) -> dict[str, Interest]:
        of_impression = {f"target.{name}": vector for name, vector in encoded.target.items()}
        of_impression |= {f"context.{name}": vector for name, vector in encoded.context.items()}
        if pictures is not None and pictures.target_NI is not None:
            of_impression["image"] = pictures.target_NI
        of_group = {f"user.{name}": vector for name, vector in encoded.user.items()}
        result = {}
        for slot, aggregator in self.interest.items():
            history = {**encoded.history, "age": batch.age_GL.unsqueeze(-1)}
            mask = batch.mask_GL
            if slot == "images":
                assert pictures is not None, "the recipe check lets no images slot pass without pictures"
                assert pictures.history_GLI is not None, "the images slot pools the history's pictures"
                history["image"], mask = pictures.history_GLI, pictures.mask_GL
            if aggregator.uses_target:
                query = Repeated(of_group, repeat, of_impression)
                result[slot] = self._aggregated(slot, query, Repeated(history, repeat), repeat(mask), need_weights)
            else:
                of_groups = self._aggregated(slot, of_group, history, mask, need_weights)
                weights = of_groups.weights
                result[slot] = Interest(repeat(of_groups.vector), None if weights is None else repeat(weights))
        return result

    def _aggregated(
        self,
        slot: str,
        query: Mapping[str, Tensor],
        history: Mapping[str, Tensor],
        mask_BL: Tensor,
        need_weights: bool,
    ) -> Interest:
        aggregator, where = self.interest[slot], f"interest.{slot}"
        given = interest_of(where, aggregator, aggregator(query, history, mask_BL, need_weights), len(mask_BL))
        if self.training and slot not in self._tried and check_padding(where, aggregator, query, history, mask_BL):
            self._tried.add(slot)
        return given

    # --- training ---

    def setup(self, stage: str) -> None:
        """Draws the rows of sharded tables on one device; on several the strategy says which rank holds which."""
        if self.trainer.world_size == 1:
            for table in sharded_tables(self).values():
                if table.exchange is None:
                    table.hold()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns this rank's share of the mean loss over the batch of all ranks."""
        stages = self._stages(batch)
        loss_sum = summed_loss(stages.prediction.logit_N, batch.label_N, batch.weight_N)
        ranks = self.trainer.world_size
        self.totals = totals = add_over_ranks(loss_sum, batch.weight_N, self.stop_requested, ranks, self.save_requested)
        if not torch.isfinite(torch.tensor(totals.loss)):
            self._stop_at_bad_loss(batch, stages, totals)
        self.log("train/loss", totals.loss, batch_size=max(1, batch.num_impressions))
        return share_of_global_mean(loss_sum, totals.weight, ranks)

    def _stop_at_bad_loss(self, batch: Batch, stages: "_Stages", totals: StepTotals) -> None:
        """Raises; every rank comes here in the same step, since all see the loss of all."""
        mine = [f"{name} ({bad} of {size})" for name, bad, size in _not_finite(_watched(batch, stages, self))]
        if self.trainer.world_size > 1:
            of_ranks: list[list[str]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(of_ranks, mine)
            mine = [f"rank {rank}: {each}" for rank, names in enumerate(of_ranks) for each in names]
        if not mine:
            mine = ["nothing but the loss: labels or weights are out of proportion"]
        raise TrainingError(
            f"the loss is {totals.loss}; not finite, in the order of the data's way: {some(mine)}",
            where=f"step {self.trainer.global_step + 1}",
            todo="If a column is named, mend its values (`transform: log1p` tames large numbers). If only vectors or "
            "parameters are, training has diverged: lower the learning rate or set trainer.gradient_clip.",
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the one optimizer, with the learning-rate schedule where the plan has one."""
        lazy = sparse_parameters(self)
        slower = [each for each in self._backbone_parameters() if each.requires_grad]
        apart = {id(each) for each in (*lazy, *slower)}
        dense = [each for each in self.parameters() if each.requires_grad and id(each) not in apart]
        optimizer = CtrOptimizer(dense, lazy, self.plan, slower)
        if not self.plan.decay_every:
            return {"optimizer": optimizer}
        schedule = decay_schedule(optimizer, self.plan)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _backbone_parameters(self) -> Iterator[nn.Parameter]:
        backbone = getattr(self.server, "backbone", None)
        if isinstance(backbone, nn.Module):
            yield from backbone.parameters()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips with the rows of id tables in the norm; Lightning's own clipping cannot take sparse gradients."""
        if not gradient_clip_val:
            return
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if gradient_clip_algorithm == "value":
            clip_values(parameters, gradient_clip_val)
        else:
            clip_norm(parameters, gradient_clip_val, apart=[each.weight for each in sharded_tables(self).values()])

    # --- validation, test, prediction ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the batch's predictions for `val/*`."""
        self._keep("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the batch's predictions for `test/*`."""
        self._keep("test", batch)

    def on_validation_epoch_start(self) -> None:
        """Takes rank 0's running statistics, which a checkpoint has, too."""
        self._share_buffers()

    def on_test_epoch_start(self) -> None:
        """Takes rank 0's running statistics."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        """Rank 0 sends the net's and the aggregators' buffers to all; DDP does so before each training step only."""
        if self.trainer.world_size > 1:
            for each in (*self.interest.buffers(), *self.net.buffers()):
                torch.distributed.broadcast(each, src=0)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/*`."""
        self._report("validation", "val")

    def on_test_epoch_end(self) -> None:
        """Logs `test/*`."""
        self._report("test", "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns click probabilities [N]."""
        return self(batch).logit_N.sigmoid()

    def _keep(self, stage: str, batch: Batch) -> None:
        history_N = Repeat(batch)(batch.mask_GL.sum(dim=1))
        logit_N = self(batch).logit_N
        metrics = self._metrics_of(stage)
        metrics.update(batch.user_id_N, batch.item_N, logit_N, batch.label_N, batch.weight_N, history_N)

    def test_rows(self) -> Impressions:
        """Returns every impression of the last test, of all ranks, with its logit."""
        rows = self._metrics_of("test").rows
        assert rows is not None, "the test comes first"
        return rows

    def _metrics_of(self, stage: str) -> RankingMetrics:
        metrics = self.ranking[stage]
        assert isinstance(metrics, RankingMetrics), "one per stage"
        return metrics

    def _report(self, stage: str, prefix: str) -> None:
        metrics = self._metrics_of(stage)
        if not metrics.update_called:  # a split without a batch
            return
        self.results[prefix] = results = metrics.compute()
        metrics.reset()
        undefined = [name for name, value in results.items() if value != value]
        if undefined and prefix not in self._warned:
            self._warned.add(prefix)
            rank_zero_warn(f"{prefix}: {some(undefined)} not defined (nan): no user, or no row at all, has both labels")
        # Equal on all ranks, so that their mean is the value: `sync_dist` is what Lightning wants to hear.
        several = torch.distributed.is_initialized()  # `ddp` on one device, too
        self.log_dict({f"{prefix}/{name}": value for name, value in results.items()}, sync_dist=several, batch_size=1)


@dataclass(frozen=True)
class _Begun:
    """What `look_ahead` began for a batch."""

    pictures: Job[Prepared] | None
    rows: Job[list[AskedRows]] | None
    """For each use of a sharded table, in the order of the encoders."""


@dataclass(frozen=True)
class _Stages:
    encoded: Encoded
    pictures: Pictures | None
    prediction: Prediction


def _sharded_table(encoder: nn.Module) -> ShardedTable | None:
    """Returns the table of one of our encoders, if several ranks share it; a plugin's asks when it is called."""
    table = getattr(encoder, "table", None)
    if not isinstance(table, ShardedTable) or not hasattr(encoder, "rows"):
        return None
    return table if table.exchange is not None and table.exchange.num_ranks > 1 else None


def _watched(batch: Batch, stages: _Stages, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields what could hold a value that is not finite, in the order of the data's way."""
    for side in SIDES:
        for name, column in getattr(batch, side).items():
            if not isinstance(column, Bag):
                yield f"column {side}.{name}", column
    yield from (("history ages", batch.age_GL), ("labels", batch.label_N), ("weights", batch.weight_N))
    for side in SIDES:
        for name, vectors in getattr(stages.encoded, side).items():
            yield f"vectors of {side}.{name}", vectors
    if stages.pictures is not None:
        for name in ("target_NI", "history_GLI"):
            if (vectors := getattr(stages.pictures, name)) is not None:
                yield f"picture vectors {name}", vectors
    for slot, interest in stages.prediction.interest.items():
        yield f"interest.{slot}", interest.vector
    yield "logits", stages.prediction.logit_N
    for name, parameter in module.named_parameters():
        yield f"parameter {name}", parameter


def _not_finite(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, int, int]]:
    for name, tensor in tensors:
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor)).sum())):
            yield name, bad, tensor.numel()
