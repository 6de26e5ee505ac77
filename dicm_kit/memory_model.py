"""A recipe's model without its memory, on the meta device, and what its parts will take: `memory_check.py` asks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.pictures import fingerprint_of
from dicm_kit.data.reader import read_batches
from dicm_kit.data.windows import WINDOW_GROUPS
from dicm_kit.exchange.dedup import distinct
from dicm_kit.images.features_file import find_features, read_features
from dicm_kit.images.server import ImageServer
from dicm_kit.interfaces import ColumnShape, ImageBackbone
from dicm_kit.memory import memory_of_machine, resident
from dicm_kit.recipe.build import SIDES, Parts, backbone_request, build_parts, build_source, source_columns
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.training import memory_parts as parts
from dicm_kit.training.memory_parts import Estimate, Part, Table, size_text
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.small_step import Proportions, backbone_bytes, batch_bytes, blank_store, step_bytes
from dicm_kit.types import Bag, Batch

_IN_FLIGHT = 4  # batches that a loader worker has ready: `data/datamodule.py`
_STEP_TODO = "a smaller `batch_size`, a shorter `data.history.max_length`, or more ranks"
_TABLE_TODO = (
    "fewer rows (`data.min_count`, `data.forget_after_days`; `buckets` of a hash), a smaller `dim`, "
    "`optimizer.ids.name: lazy_adagrad`, or `placement: sharded` and more ranks with `trainer.strategy: image_server`"
)


@dataclass(frozen=True)
class Machine:
    """What there is for this machine's ranks."""

    host: int | None
    """Bytes for all of them; None: nobody says."""
    device: int | None = None
    """Bytes of each rank's GPU; None: the model is in the host's memory."""
    ranks: int = 1
    """On this machine."""

    @classmethod
    def of(cls, loaded: LoadedRecipe) -> "Machine":
        """Returns this machine, as the recipe would use it."""
        trainer = loaded.recipe.trainer
        gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu") else 0
        ranks = trainer.devices if trainer.devices > 0 else max(1, gpus)
        device = torch.cuda.get_device_properties(0).total_memory if gpus else None
        return cls(memory_of_machine(), device, ranks)


class MemoryModel:
    """The recipe's model on the meta device, and what the dataset says about its sizes."""

    def __init__(self, loaded: LoadedRecipe, dataset: Dataset | None, machine: Machine):
        self.loaded, self.recipe, self.dataset, self.machine = loaded, loaded.recipe, dataset, machine
        self.unknown: list[str] = []
        trainer = self.recipe.trainer
        self.ranks = machine.ranks * trainer.num_nodes
        self.spread = self.ranks if trainer.strategy == "image_server" else 1
        """Ranks that the pictures are shared out over."""
        self.shapes = self._shapes()
        self.features = self._features()
        self.trained = _is_trained(loaded)
        self.backbone: ImageBackbone | None = None

    def held(self, process: int) -> Estimate:
        """Returns what is known without building a backbone or reading samples."""
        built = self._built(self.features["dim"] if self.features else 8)
        tables = list(self._tables_of(built))
        return Estimate([Part("the process", process, sure=True), *self._tables(tables), *self._store()])

    def whole(self) -> Estimate:
        """Returns everything; warms the libraries up with a step in small, then asks what the process takes."""
        images, dataset = self.recipe.images, self.dataset
        if images is not None and self.trained:
            self.backbone = _without_weights(self.loaded)
        dim = self.backbone.out_dim if self.backbone else self.features["dim"] if self.features else 8
        guess = Proportions(_slots(self.recipe.data.history.max_length), 1.0, 1.0)
        self._step(dim, guess, say=False)
        process = (resident() or 0) + parts.LATER
        have = guess if dataset is None else self._proportions(dataset)
        built = self._built(dim)
        tables = list(self._tables_of(built))
        trained, frozen = _dense(built, self.backbone)
        held = [
            Part("the process with its libraries", process, sure=True, note="measured now"),
            *self._tables(tables),
            *self._store(),
            Part("dense parameters", parts.dense_bytes(trained, frozen, self.ranks), on_device=True, sure=True),
            *self._data(),
            *self._pixels(),
            *self._ahead(have),
        ]
        return Estimate(
            [each for each in held if each.bytes],
            [*self._step(dim, have), *self._other_moments(tables, trained, frozen)],
            list(self._apart(have)),
            self.unknown,
        )

    # --- the parts ---

    def _tables(self, tables: list[Table]) -> Iterator[Part]:
        for table in tables:
            weight, state = parts.weight_bytes(table, self.ranks), parts.state_bytes(table, self.ranks)
            rows = f"{parts.rows_on_rank(table, self.ranks):,} rows x {table.dim}"
            note = f"{rows}, {size_text(weight)}, and {self.recipe.optimizer.ids.name}'s state, {size_text(state)}"
            name = f"id table {table.key.removeprefix('features.')}"
            yield Part(name, weight + state, table.key, _TABLE_TODO, True, note, on_device=True)

    def _store(self) -> Iterator[Part]:
        if self.features and self.recipe.images and self.recipe.images.store == "memory":
            todo = "`images.store: mmap`, or more ranks with `trainer.strategy: image_server`"
            yield Part("vectors of the pictures", self._stored(), "images.store", todo, sure=True)

    def _stored(self) -> int:
        assert self.features is not None
        share = parts.share_of_partitions(self.features["partitions"], self.spread)
        return parts.store_bytes(self.features["count"], self.features["dim"], share)

    def _pixels(self) -> Iterator[Part]:
        if self.backbone is not None and self.dataset is not None:
            share = parts.share_of_partitions(self.dataset.partitions, self.spread)
            size = parts.pixel_cache_bytes(self.dataset.num_pictures, *_height_width(self.backbone), share)
            yield Part("decoded pictures, kept", size)

    def _ahead(self, have: Proportions) -> Iterator[Part]:
        """With `look_ahead` the next step's pictures are there while this one computes."""
        images, pictures = self.recipe.images, round(have.pictures * self.recipe.batch_size / self.ranks)
        if images is None or not self.recipe.trainer.look_ahead:
            return
        name = "pictures of the next step, begun ahead"
        if self.backbone is not None:
            height, width = _height_width(self.backbone)
            yield Part(name, parts.ahead_bytes(pictures, 3 * height * width, trained=True))
        elif self.features:
            yield Part(name, parts.ahead_bytes(pictures, self.features["dim"], trained=False))

    def _data(self) -> Iterator[Part]:
        dataset, features = self.dataset, self.recipe.features
        if dataset is None:
            return
        columns = len(features.target) + len(features.history) + 2 + len(dataset.item)
        yield Part("columns of the items", parts.item_table_bytes(dataset.num_items, columns))
        if not self.recipe.data.workers:
            yield Part("samples read ahead, to be shuffled", self._windows(dataset))

    def _windows(self, dataset: Dataset) -> int:
        features, split = self.recipe.features, dataset.splits["train"]
        lanes = -(-dataset.lanes // self.ranks)
        return parts.window_bytes(
            lanes,
            min(WINDOW_GROUPS, -(-split.groups // dataset.lanes)),
            min(self.recipe.data.history.max_length, dataset.history_max_length),
            split.impressions / max(1, split.groups),
            (len(features.user), len(features.context)),
        )

    def _step(self, dim: int, have: Proportions, say: bool = True) -> list[Part]:
        """Returns what a step takes, from one in small; where a plugin cannot be tried, says so."""
        impressions = -(-self.recipe.batch_size // self.ranks)
        try:
            with torch.random.fork_rng(devices=[]):
                module = self._module(dim)
                alive = step_bytes(module, self.shapes, have, impressions, self.recipe.trainer.precision)
                seen = round(have.pictures * impressions)
                pictures = backbone_bytes(self.backbone, _height_width(self.backbone), seen) if self.backbone else 0
        except Exception as error:  # whatever a plugin's code raises on made-up values
            if say:
                self.unknown.append(
                    f"a step's vectors and gradients: trying one failed, {type(error).__name__}: {error}"
                )
            return []
        on_gpu = self.machine.device is not None
        kept = [1.0, 1.0] if on_gpu else [parts.KEPT, parts.KEPT_PICTURES]
        note = f"{size_text(alive + pictures)} alive at once" + ("" if on_gpu else ", and what the allocator keeps")
        if self.backbone and not on_gpu:
            note += ", which may become more (docs/how_to/memory.md)"
        size = round(kept[0] * alive + kept[1] * pictures)
        return [Part("a training step", size, "batch_size", _STEP_TODO, note=note, on_device=True)]

    def _other_moments(self, tables: list[Table], trained: int, frozen: int) -> Iterator[Part]:
        size = parts.checkpoint_bytes(tables, trained, frozen)
        yield Part("reading a checkpoint, before the test and in a resume", size)
        if self.dataset is not None:
            rows = max(self.dataset.splits[name].impressions for name in ("val", "test"))
            todo = "a smaller test split (`data.split.test`)"
            yield Part("metrics of the test, with intervals", parts.EVALUATED * rows, "data.split.test", todo)
        else:
            todo = "a smaller `data.memory_mb`"
            yield Part("preparing the data", self.recipe.data.memory_mb * 2**20, "data.memory_mb", todo)
        images = self.recipe.images
        if images is not None and images.embedder.standardize and self.features:
            found = self.features
            size = parts.statistics_bytes(found["count"], found["dim"], found["partitions"])
            yield Part("statistics of the pictures' vectors", size)

    def _apart(self, have: Proportions) -> Iterator[Part]:
        images, workers, dataset = self.recipe.images, self.recipe.data.workers, self.dataset
        if self.features and images is not None and images.store == "mmap":
            name = "page cache of the pictures' vectors, which the system takes back when it must"
            yield Part(name, self._stored())
        if workers and dataset is not None:
            batch = batch_bytes(self.shapes, have, -(-self.recipe.batch_size // self.ranks))
            size = workers * (self._windows(dataset) + _IN_FLIGHT * batch)
            yield Part(f"{workers} loader workers of each rank, samples read ahead and batches in flight", size)

    # --- what is known ---

    def _tables_of(self, built: Parts) -> Iterator[Table]:
        ids, seen = self.recipe.optimizer.ids, set()
        adam = ids.name == "lazy_adam"
        for side, encoders in built.encoders.items():
            for name, encoder in encoders.items():
                if id(encoder) not in seen:
                    seen.add(id(encoder))
                    for table in parts.tables_of(f"features.{side}.{name}", encoder):
                        yield replace(table, kept=2 if adam else 1, counted=adam or bool(ids.l2))

    def _shapes(self) -> dict[str, dict[str, ColumnShape]]:
        dataset, features = self.dataset, self.recipe.features
        if dataset is not None:
            sides = {"user": dataset.user, "target": dataset.item, "context": dataset.context, "history": dataset.item}
            if all(name in sides[side] for side in SIDES for name in getattr(features, side)):
                return {side: {name: sides[side][name].shape for name in getattr(features, side)} for side in SIDES}
        known = source_columns(build_source(self.loaded))
        self.unknown.append("vocabularies, and pictures: the data are not prepared (`dicm prepare RECIPE`)")
        return {
            side: {
                name: ColumnShape(kind := known[side][name].kind, 3 if kind in ("id", "ids") else None)
                for name in getattr(features, side)
            }
            for side in SIDES
        }

    def _features(self) -> dict[str, Any] | None:
        """Returns features.yaml of the frozen backbone's vectors, where they have been extracted."""
        if self.recipe.images is None or self.dataset is None or _is_trained(self.loaded):
            return None
        _, pictures = fingerprint_of(self.dataset.items["picture_key"])
        folder = find_features(self.dataset.features_folder, backbone_request(self.loaded), pictures)
        if folder is None:
            self.unknown.append("vectors of the pictures: not extracted yet (`dicm extract RECIPE`)")
            return None
        return read_features(folder)

    def _built(self, image_dim: int) -> Parts:
        """Returns the components, on the meta device where they can be there."""
        dim = image_dim if self.recipe.images else None
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    return build_parts(self.loaded, self.shapes, dim)
            except Exception:  # as in `rehearse`: it may only be that a component looks at values when it is built
                return build_parts(self.loaded, self.shapes, dim)

    def _module(self, dim: int) -> CtrModule:
        built, images = self._built(dim), self.recipe.images
        server = None
        if images is not None and built.embedder is not None:
            server = ImageServer(blank_store(dim, self.trained), built.embedder, transport=images.transport)
        return CtrModule(
            encoders=built.encoders,
            server=server,
            image_target=bool(images and images.target),
            image_history=bool(images and images.history),
            interest=built.interest,
            net=built.net,
            optimizer=OptimizerPlan(),
        )

    def _proportions(self, dataset: Dataset) -> Proportions:
        """Returns the most that the first three batches of an epoch have."""
        recipe, images = self.recipe, self.recipe.images
        used = ColumnsUsed(
            user=tuple(recipe.features.user),
            target=tuple(recipe.features.target),
            context=tuple(recipe.features.context),
            history=tuple(recipe.features.history),
            target_picture=bool(images and images.target),
            history_picture=bool(images and images.history),
        )
        longest = recipe.data.history.max_length
        ranks = 1 if self.spread > 1 else self.ranks  # pictures of all ranks, or of one
        batches = read_batches(
            dataset, "train", columns=used, batch_size=recipe.batch_size, max_history=longest, num_ranks=ranks,
            shuffle=True, seed=recipe.seed,
        )  # fmt: skip
        found = [_proportions(batch) for batch in islice(batches, 3) if batch.num_impressions]
        if not found:
            return Proportions(_slots(longest))
        return Proportions(
            slots=max(each.slots for each in found),
            groups=max(each.groups for each in found),
            pictures=max(each.pictures for each in found),
            in_bag={name: max(each.in_bag[name] for each in found) for name in found[0].in_bag},
        )


def _proportions(batch: Batch) -> Proportions:
    keys = torch.cat([batch.target_key_N, (batch.history_key_GL * batch.mask_GL).flatten()])
    N = batch.num_impressions
    bags = {
        (side, name): len(column.values) / max(1, len(column.offsets) - 1)
        for side in SIDES
        for name, column in getattr(batch, side).items()
        if isinstance(column, Bag)
    }
    pictures = distinct(keys[keys != 0])[0].shape[0]
    # Of all ranks together each picture is computed once: a rank's share of the pictures, and of the impressions.
    return Proportions(batch.mask_GL.shape[1], batch.num_groups / N, pictures / N, bags)


def _slots(longest: int) -> int:
    return min(longest, -(-longest // 8) * 8)


def _is_trained(loaded: LoadedRecipe) -> bool:
    images = loaded.recipe.images
    return images is not None and getattr(images.backbone.config, "trainable", None) not in (None, False, "none")


def _without_weights(loaded: LoadedRecipe) -> ImageBackbone:
    """Returns the backbone with random weights: its sizes are the same, and nothing is downloaded."""
    assert loaded.recipe.images is not None
    section = loaded.recipe.images.backbone
    config = replace(section.config, weights="none") if hasattr(section.config, "weights") else section.config
    backbone = loaded.registry.build("image_backbone", section.name, config, None)
    assert isinstance(backbone, ImageBackbone)
    return backbone


def _height_width(backbone: ImageBackbone) -> tuple[int, int]:
    from PIL import Image

    _, height, width = backbone.transform(Image.new("RGB", (8, 8))).shape
    return height, width


def _dense(built: Parts, backbone: ImageBackbone | None) -> tuple[int, int]:
    """Returns how many numbers are trained, and how many are frozen, id tables left out."""
    modules = [each for of in built.encoders.values() for each in of.values()]
    everything = [*modules, *built.interest.values(), built.net]
    everything += [each for each in (built.embedder, backbone) if each is not None]
    lazy = {id(each) for module in everything for each in parts.sparse_parameters(module)}
    found = {id(each): each for module in everything for each in module.parameters() if id(each) not in lazy}
    trained = sum(each.numel() for each in found.values() if each.requires_grad)
    return trained, sum(each.numel() for each in found.values()) - trained
