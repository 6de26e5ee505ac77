"""Where a recipe's picture vectors come from: extracted ones of a frozen backbone, or a backbone that is trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dicm_kit.data.dataset import Dataset
from dicm_kit.data.pictures import fingerprint_of
from dicm_kit.data.steps import locked
from dicm_kit.images.embedder import Embedder, Standardize
from dicm_kit.images.extract import extract as extract_features
from dicm_kit.images.features_file import find_features, read_features
from dicm_kit.images.server import ImageServer
from dicm_kit.images.store import FeatureStore, PixelStore
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.recipe.build import backbone_request, build_backbone
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.recipe.schema import Recipe


@dataclass(frozen=True)
class Pictures:
    """What the image server reads: the feature folder of a frozen backbone, or the trained backbone itself."""

    features: Path | None
    backbone: ImageBackbone | None
    dim: int
    """C"""

    @property
    def fingerprint(self) -> str:
        """The backbone's: of a trained one, as it starts."""
        if self.backbone is not None:
            return self.backbone.fingerprint
        assert self.features is not None
        return str(read_features(self.features)["backbone"])

    @classmethod
    def of(cls, loaded: LoadedRecipe, dataset: Dataset) -> "Pictures":
        """Extracts what is missing, of the pictures that items have. A frozen backbone is built only for that."""
        keys = dataset.items["picture_key"]
        request, (_, pictures) = backbone_request(loaded), fingerprint_of(keys)
        found = find_features(dataset.features_folder, request, pictures)
        if found is not None:
            return cls(found, None, read_features(found)["dim"])
        backbone = build_backbone(loaded)
        if not backbone.frozen:
            return cls(None, backbone, backbone.out_dim)
        dataset.features_folder.mkdir(exist_ok=True)
        with locked(dataset.features_folder / ".lock", lambda: print("Waiting for another process that extracts.")):
            done = extract_features(
                dataset.images_folder,
                dataset.features_folder,
                backbone,
                request=request,
                partitions=dataset.partitions,
                pictures_fingerprint=pictures,
                keys=keys.to_numpy(),
                device=_device(loaded.recipe),
            )
        if done.computed or done.taken_over:  # else another process did it while this one waited
            print(done)
        return cls(done.folder, None, backbone.out_dim)

    def server(self, loaded: LoadedRecipe, embedder: Embedder, dataset: Dataset) -> ImageServer:
        """Returns the image server on this rank."""
        recipe = loaded.recipe
        assert recipe.images is not None
        standardize = embedder[0] if isinstance(embedder[0], Standardize) else None
        # None: all partitions; the strategy opens those of each rank
        partitions = () if recipe.trainer.strategy == "image_server" else None
        store: FeatureStore | PixelStore
        if self.backbone is not None:
            if standardize is not None:
                raise loaded.error(
                    "images.embedder.standardize",
                    "a trained backbone has no fixed statistics to standardize by",
                    "Leave it out, or use `trainable: none`.",
                )
            store = PixelStore(dataset.images_folder, self.backbone.transform, partitions=partitions)
        else:
            assert self.features is not None
            store = FeatureStore.open(self.features, recipe.images.store, partitions=partitions)
            if standardize is not None:
                standardize.set(*FeatureStore.open(self.features, "mmap").statistics())
        images = recipe.images
        return ImageServer(
            store,
            embedder,
            self.backbone,
            missing=images.missing,
            transport=images.transport,
            max_distinct=images.max_distinct,
        )


def _device(recipe: Recipe) -> str:
    wanted = recipe.trainer.accelerator
    if wanted == "gpu" or (wanted == "auto" and torch.cuda.is_available()):
        return "cuda"
    return "cpu"
