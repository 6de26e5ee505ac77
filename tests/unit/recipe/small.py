"""A small complete recipe for the tests, and how they ask what is wrong with a changed one."""

from pathlib import Path

import pytest

from dicm_kit.errors import RecipeError
from dicm_kit.recipe.load import LoadedRecipe, load

SMALL = """\
dicm: 1
seed: 7
data:
  name: synthetic
  users: 50
  out: data/small
  history: {max_length: 8}
batch_size: 64
features:
  user: {user_id: {name: id, dim: 8}}
  target: {item_id: {name: id, dim: 8}, picture: {name: id, dim: 4}}
  history: {item_id: {name: id, share: target.item_id}}
images:
  target: true
  history: true
  backbone: {name: timm, model: resnet10t, weights: none}
  embedder: {hidden: [16], dim: 6}
interest:
  ids: {name: sum}
  images: {name: multi_query_attention, queries: [image, target.item_id]}
net: {name: embedding_mlp, hidden: [16]}
optimizer: {dense: {name: adam, lr: 1e-3}, decay: {every: 10, factor: 0.9}}
trainer: {max_epochs: 2, precision: bf16-mixed}
run_dir: runs/small
"""


def loaded(folder: Path, *overrides: str, text: str = SMALL) -> LoadedRecipe:
    """Writes the text as recipe.yaml and loads it."""
    (folder / "recipe.yaml").write_text(text)
    return load(folder / "recipe.yaml", overrides)


def changed(old: str, new: str) -> str:
    """Returns the small recipe with one piece of text replaced."""
    assert SMALL.count(old) == 1, old
    return SMALL.replace(old, new)


def complaint(folder: Path, *overrides: str, text: str = SMALL) -> str:
    """Returns what loading says, with the folder's name taken out."""
    with pytest.raises(RecipeError) as caught:
        loaded(folder, *overrides, text=text)
    return str(caught.value).replace(f"{folder}/", "") + "\n"
