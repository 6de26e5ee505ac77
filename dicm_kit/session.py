"""One recipe with its dataset: the parts put together, trained, tested."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dicm_kit import __version__
from dicm_kit.artifacts.metrics_file import METRICS_FILE, MetricsFile
from dicm_kit.artifacts.picture_costs import picture_costs, print_picture_costs
from dicm_kit.artifacts.predictions import in_order, write_predictions
from dicm_kit.artifacts.results import print_result
from dicm_kit.artifacts.run_folder import earlier_run, read_result, write_result
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.datamodule import CtrDataModule
from dicm_kit.data.dataset import ColumnInfo, Dataset
from dicm_kit.errors import RunError
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.hookspecs import HOOK_API
from dicm_kit.images.server import ImageServer
from dicm_kit.memory_check import refuse_what_cannot_fit
from dicm_kit.picture_source import Pictures
from dicm_kit.recipe.build import SIDES, build_parts
from dicm_kit.recipe.load import LoadedRecipe, dump
from dicm_kit.training.bootstrap import intervals, replicates_of
from dicm_kit.training.callbacks import CtrProgress
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import CHECKPOINTS, Provenance, check_provenance, read_checkpoint, told
from dicm_kit.training.early_stop import EarlyStop
from dicm_kit.training.metrics import RankingMetrics
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.picture_counts import CountPictures, PictureCounts
from dicm_kit.training.row_values import values_by_row, write_row_values
from dicm_kit.training.same_run import held_by
from dicm_kit.training.slices import TargetSlices
from dicm_kit.training.strategy import ImageServerStrategy
from dicm_kit.training.table_files import read_tables
from dicm_kit.training.warm_start import WarmStart


def is_first() -> bool:
    """Returns whether this process is rank 0, which owns the run folder; known before Lightning starts."""
    return not getattr(rank_zero_only, "rank", 0)


class Session:
    """A recipe with its dataset: trains, and tests."""

    def __init__(self, loaded: LoadedRecipe, dataset: Dataset):
        self.loaded, self.recipe, self.dataset = loaded, loaded.recipe, dataset
        self.folder = Path(loaded.recipe.run_dir)
        refuse_what_cannot_fit(loaded, dataset)
        pl.seed_everything(self.recipe.seed, workers=True, verbose=False)
        self.pictures = Pictures.of(loaded, dataset) if self.recipe.images else None
        self.module = self._module()
        self.data = CtrDataModule(
            dataset,
            batch_size=self.recipe.batch_size,
            columns=ColumnsUsed(
                **{side: tuple(getattr(self.recipe.features, side)) for side in SIDES},
                target_picture=bool(self.recipe.images and self.recipe.images.target),
                history_picture=bool(self.recipe.images and self.recipe.images.history),
                shuffle_pictures=self.recipe.images.shuffle if self.recipe.images else None,
            ),
            max_history=self.recipe.data.history.max_length,
            seed=self.recipe.seed,
            workers=self.recipe.data.workers,
            ahead=self.module if self.recipe.trainer.look_ahead else None,
        )
        self.provenance = self._provenance()
        self.progress, self.counted = CtrProgress(), CountPictures()
        self.warm_start = WarmStart(
            self.recipe.warm_start.parts, self.provenance, lambda vocab: values_by_row(dataset.vocab_file(vocab))
        )
        self.trainer = self._trainer()

    def write_vocabularies(self) -> None:
        """Rank 0 writes which id each row of a table stands for into the run folder, for later warm starts."""
        if is_first():
            for vocab in sorted({each for each in self.provenance["id_columns"].values() if each}):
                file = self.dataset.vocab_file(vocab)
                write_row_values(self.folder, vocab, file, self.provenance["vocabularies"][vocab])

    def fit(self, checkpoint: Path | None) -> None:
        """Trains, from a warm start if asked for; Ctrl-C leaves a checkpoint to go on from."""
        given = self.recipe.warm_start.run
        if given is not None and checkpoint is None:
            self.warm_start.run = earlier_run(Path(given), self.folder)
            if self.warm_start.run is None and is_first():
                print(f"No run in {given} has finished before {self.folder.name}: everything starts fresh.")
        with _interruptible():
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)

    def best_checkpoint(self) -> Path:
        """Returns the best checkpoint by `checkpoint.monitor`, else the last."""
        names = ("best.ckpt", "last.ckpt") if self.recipe.checkpoint.monitor else ("last.ckpt",)
        for name in names:
            if (path := self.folder / CHECKPOINTS / name).is_file():
                check_provenance(path, self.provenance)
                return path
        raise RunError("has no checkpoint to test", where=str(self.folder), todo="Train it: dicm run RECIPE --resume.")

    @property
    def is_alone(self) -> bool:
        """Whether this process holds all of the model, now and after a test."""
        return self.trainer.world_size == 1 and self.recipe.trainer.strategy == "auto"

    def load(self, checkpoint: Path) -> None:
        """Fills the model from a checkpoint without a trainer, for a few predictions in this one process."""
        content = read_checkpoint(checkpoint)
        for table in sharded_tables(self.module).values():
            table.hold()
        self.module.load_state_dict(content["state_dict"])
        if "tables" in content["dicm"]:
            read_tables(self.module, None, checkpoint.parent / content["dicm"]["tables"]["folder"])

    def test(self, checkpoint: Path) -> dict[str, Any]:
        """Tests the checkpoint; rank 0 writes the predictions and test.json, with intervals, and prints the table."""
        with _interruptible():
            self.trainer.test(self.module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        result: dict[str, Any] = {
            "run_dir": str(self.folder),
            "dataset": str(self.dataset.folder),
            "checkpoint": checkpoint.name,
            "dicm_kit": __version__,
            "seed": self.recipe.seed,
            "steps": read_checkpoint(checkpoint)["global_step"],
            "parameters": num_parameters(self.module),
            "training_seconds": round(self.progress.seconds, 1),
            "impressions_per_second": round(self.progress.impressions_per_second, 1),
            "test": self.module.results["test"],
        }
        if self.warm_start.report:  # came with the checkpoint
            result["warm_start"] = self.warm_start.report
        if self.dataset.has_truth:
            result["oracle"] = oracle(self.dataset)
        if self.counted.counts is not None:
            result["pictures"] = self._picture_costs(self.counted.counts)
        if is_first():
            before = read_result(self.folder)
            if before is not None and not result["impressions_per_second"]:  # tested again: nothing was trained
                for name in ("impressions_per_second", "training_seconds"):
                    result |= {name: before[name]} if name in before else {}
                result |= {"pictures": before["pictures"]} if "pictures" in before else {}
            rows = in_order(self.module.test_rows())
            write_predictions(self.folder, rows, self.dataset.fingerprint)
            result["intervals"], result["replicates"] = intervals(rows), replicates_of(len(rows["user"]))
            write_result(self.folder, result)
            print(told(checkpoint, self.recipe.checkpoint.monitor))
            print_result(result)
            print_picture_costs(result.get("pictures", {}))
        return result

    def _picture_costs(self, counts: PictureCounts) -> dict[str, Any]:
        server, images = self.module.server, self.recipe.images
        assert isinstance(server, ImageServer), "it was counted"
        assert images is not None, "there is a server"
        ran = {"vectors": "ams", "backbone_vectors": "store_in_server"}[images.transport]
        is_shared = self.recipe.trainer.strategy == "image_server"
        trained, traffic = server.backbone is not None, counts.traffic
        return picture_costs(
            ran=ran if is_shared else "store_in_worker",
            ranks=counts.ranks,
            steps=counts.steps,
            references=counts.references,
            grouped=counts.grouped,
            asked=traffic.asked,
            served=traffic.served,
            elsewhere=traffic.keys_bytes // 8 if is_shared else None,
            bytes_sent=traffic.bytes_sent,
            wide=(4 if trained else 2) * server.embedder.in_dim,
            wide_gradient=4 * server.embedder.in_dim if trained else 0,
            narrow=4 * server.dim,
            stored=getattr(server.store, "num_bytes", None),
        )

    def _module(self) -> CtrModule:
        recipe, dataset = self.recipe, self.dataset
        shapes = {side: {name: info.shape for name, info in of.items()} for side, of in self._columns().items()}
        pictures = self.pictures
        parts = build_parts(self.loaded, shapes, pictures.dim if pictures else None)
        optimizer = recipe.optimizer
        return CtrModule(
            encoders=parts.encoders,
            server=pictures.server(self.loaded, parts.embedder, dataset) if pictures and parts.embedder else None,
            image_target=bool(recipe.images and recipe.images.target),
            image_history=bool(recipe.images and recipe.images.history),
            interest=parts.interest,
            net=parts.net,
            optimizer=OptimizerPlan(
                dense_lr=optimizer.dense.lr,
                weight_decay=optimizer.dense.weight_decay,
                ids_rule=optimizer.ids.name,
                ids_lr=optimizer.ids.lr,
                ids_eps=optimizer.ids.eps,
                ids_initial_accumulator=optimizer.ids.initial_accumulator,
                ids_l2=optimizer.ids.l2,
                backbone_lr=optimizer.backbone.lr if optimizer.backbone else None,
                decay_every=optimizer.decay.every if optimizer.decay else 0,
                decay_factor=optimizer.decay.factor if optimizer.decay else 1.0,
            ),
            slices=TargetSlices(dataset.items["train_count"].to_numpy()),
        )

    def _columns(self) -> dict[str, dict[str, ColumnInfo]]:
        user, item, context = self.dataset.user, self.dataset.item, self.dataset.context
        return {"user": user, "target": item, "context": context, "history": item}

    def _trainer(self) -> pl.Trainer:
        options, checkpoint = self.recipe.trainer, self.recipe.checkpoint
        steps = -(-self.dataset.splits["train"].impressions // self.recipe.batch_size)
        checkpoints = Checkpoints(
            self.folder / CHECKPOINTS,
            every=checkpoint.every or options.validate_every or max(1, steps),
            keep=checkpoint.keep,
            monitor=checkpoint.monitor,
            every_minutes=checkpoint.every_minutes,
            provenance=self.provenance,
        )
        stop = options.early_stop
        early = [EarlyStop(checkpoint.monitor, stop.patience, stop.min_delta)] if stop and checkpoint.monitor else []
        return pl.Trainer(
            accelerator=options.accelerator,
            strategy=ImageServerStrategy(options.timeout) if options.strategy == "image_server" else options.strategy,
            devices=options.devices,
            num_nodes=options.num_nodes,
            # Lightning would save and requeue in a signal handler, whatever the ranks are in; `--resume` does without
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            precision=options.precision,
            max_epochs=options.max_epochs if options.max_epochs else -1,
            max_steps=options.max_steps or -1,
            gradient_clip_val=options.gradient_clip,
            log_every_n_steps=min(options.log_every, max(1, steps)),  # no line at all would be logged of a short epoch
            val_check_interval=options.validate_every,
            check_val_every_n_epoch=None if options.validate_every else 1,
            num_sanity_val_steps=0,
            logger=_logger(options.logger, self.folder),
            callbacks=[*early, checkpoints, self.warm_start, self.progress, self.counted],
            enable_checkpointing=True,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.folder,
        )

    def _provenance(self) -> Provenance:
        return {
            "recipe": dump(self.recipe, base=self.loaded.path.parent),
            **held_by(self.dataset),
            "id_columns": {
                f"{side}.{column}": info.vocab
                for side, known in self._columns().items()
                for column in getattr(self.recipe.features, side)
                if (info := known[column]).kind != "number"
            },
            "backbone": self.pictures.fingerprint if self.pictures else None,
            "plugins": {plugin.name: plugin.version for plugin in self.loaded.registry.plugins},
            "hook_api": HOOK_API,
            "dicm_kit": __version__,
        }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C be a KeyboardInterrupt: Lightning makes exit code 1 of it and goes on ignoring the signal."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from ended


def num_parameters(module: CtrModule) -> int:
    """Returns how many numbers are trained, of all ranks together; those of a frozen backbone do not count."""
    tables = sharded_tables(module).values()
    own = {id(each.weight) for each in tables}
    dense = sum(each.numel() for each in module.parameters() if each.requires_grad and id(each) not in own)
    return dense + sum(each.num_rows * each.dim for each in tables)


def _logger(name: str, folder: Path) -> Any:
    from lightning.pytorch import loggers

    match name:
        case "none":
            return False
        case "csv":
            return MetricsFile(folder / METRICS_FILE)
        case "tensorboard":
            return loggers.TensorBoardLogger(folder, name="tensorboard", version="")
        case "wandb":
            return loggers.WandbLogger(name=folder.name, save_dir=folder)
        case "mlflow":
            return loggers.MLFlowLogger(experiment_name=folder.name, save_dir=str(folder / "mlflow"))
        case other:
            raise AssertionError(other)


def oracle(dataset: Dataset) -> dict[str, float]:
    """Returns the test metrics of the true click probabilities: what no model can beat but by luck."""
    rows = dataset.impressions("test", ["user", "item", "label", "weight", "click_probability"])
    probability = rows["click_probability"]
    slices = TargetSlices(dataset.items["train_count"].to_numpy())
    metrics = RankingMetrics(slices, over_ranks=False)  # every rank reads all of it
    logit = np.log(probability) - np.log1p(-probability)
    user, item, label, weight = (torch.from_numpy(rows[name]) for name in ("user", "item", "label", "weight"))
    metrics.update(user, item, torch.from_numpy(logit), label, weight, torch.zeros(len(logit)))
    return {name: value for name, value in metrics.compute().items() if not name.startswith("history_")}


# --- pictures ---
