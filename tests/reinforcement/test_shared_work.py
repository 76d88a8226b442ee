"""What is computed once gives what computing it for every response gives."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from leap.models.loading import load_model, load_processor
from leap.reinforcement.shared_work import (
    neighbours_together,
    process_images_once,
    rows_of,
    see_images_once,
    that_teach,
)


def features(model: Any, pixels: torch.Tensor, grid: torch.Tensor) -> list[torch.Tensor]:
    found = model.model.get_image_features(pixels, grid)
    return [*found.pooler_output, *(image for layer in found.deepstack_features for image in layer)]


def test_the_copies_of_an_image_are_seen_once(model: Path) -> None:
    """With the same features, and the gradients of all copies."""
    loaded = load_model(model, "float32")
    width = loaded.config.vision_config.patch_size**2 * 2 * 3
    torch.manual_seed(0)
    one, other, small = torch.randn(16, width), torch.randn(16, width), torch.randn(4, width)
    pixels = torch.cat([one, other, one, small, one])
    grid = torch.tensor([[1, 4, 4]] * 3 + [[1, 2, 2]] + [[1, 4, 4]])
    weight = loaded.model.visual.patch_embed.proj.weight

    def measure() -> tuple[list[torch.Tensor], torch.Tensor]:
        said = features(loaded, pixels, grid)
        return said, torch.autograd.grad(sum((image**2).sum() for image in said), weight)[0]

    plain = measure()
    see_images_once(loaded)
    tower, seen = loaded.model.visual, list[int]()
    tower.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    once = measure()
    assert seen == [36]  # of 68 patches
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(plain[0], once[0], strict=True))
    assert torch.allclose(plain[1], once[1], rtol=1e-3, atol=1e-3 * float(plain[1].abs().max()))


def test_layers_of_all_images_in_one_tensor_are_taken_apart() -> None:
    """As transformers 5.17 gives them: a stand-in for its model, whose features are the sums of four patches."""

    def get_image_features(pixels: torch.Tensor, grid: torch.Tensor) -> Any:
        tokens = pixels.reshape(-1, 4, pixels.shape[1]).sum(dim=1)
        sizes = (grid.prod(-1) // 4).tolist()
        return SimpleNamespace(pooler_output=tokens.split(sizes), deepstack_features=[tokens, -tokens])

    model = SimpleNamespace(model=SimpleNamespace(get_image_features=get_image_features))
    one, other = torch.randn(16, 3), torch.randn(4, 3)
    given = torch.cat([one, other, one]), torch.tensor([[1, 4, 4], [1, 2, 2], [1, 4, 4]])
    plain = get_image_features(*given)
    see_images_once(model)
    found = model.model.get_image_features(*given)
    pairs = zip(found.deepstack_features, plain.deepstack_features, strict=True)
    assert all(torch.equal(layer, expected) for layer, expected in pairs)
    assert torch.equal(torch.cat(found.pooler_output), torch.cat(plain.pooler_output))


def batch(advantages: list[float]) -> dict[str, Any]:
    """Three responses; the images of the second are two of one patch and one of four."""
    return {
        "advantages": torch.tensor(advantages),
        "completion_ids": torch.arange(6).reshape(3, 2),
        "num_items_in_batch": torch.tensor(6),
        "num_images": [1, 2, 1],
        "image_grid_thw": torch.tensor([[1, 1, 1], [1, 1, 1], [1, 2, 2], [1, 1, 1]]),
        "pixel_values": torch.arange(7).reshape(7, 1),
    }


def test_responses_without_an_advantage_are_left_out() -> None:
    found = that_teach(batch([0.0, 1.0, -0.5]), int)
    assert found["advantages"].tolist() == [1.0, -0.5]
    assert found["completion_ids"].tolist() == [[2, 3], [4, 5]]
    assert found["num_images"] == [2, 1]
    assert found["image_grid_thw"].tolist() == [[1, 1, 1], [1, 2, 2], [1, 1, 1]]
    assert found["pixel_values"].flatten().tolist() == [1, 2, 3, 4, 5, 6]
    assert found["num_items_in_batch"] == 6  # the loss is still over all responses


def test_one_response_is_always_left() -> None:
    assert that_teach(batch([0.0, 0.0, 0.0]), int)["completion_ids"].tolist() == [[0, 1]]
    whole = batch([1.0, 2.0, -3.0])
    assert that_teach(whole, int) is whole


def test_all_ranks_have_as_many_responses() -> None:
    found = that_teach(batch([0.0, 1.0, 0.0]), lambda _: 2)
    assert found["advantages"].tolist() == [0.0, 1.0]


def test_an_image_becomes_patches_once(model: Path) -> None:
    processor = load_processor(model).image_processor
    one, other = (Image.effect_noise((64 + 32 * number, 64), 90).convert("RGB") for number in range(2))
    asked = [[one, other], [one], [other, one]]
    plain = processor(images=asked, return_tensors="pt")
    original, made = processor.preprocess, list[int]()
    processor.preprocess = lambda images, **options: made.append(len(images)) or original(images, **options)
    process_images_once(processor)
    found = processor(images=asked, return_tensors="pt")
    assert all(torch.equal(found[name], plain[name]) for name in ("pixel_values", "image_grid_thw"))
    assert made == [2]


def test_rows_keep_their_images() -> None:
    given = {
        "pixel_values": torch.arange(5.0)[:, None],
        "image_grid_thw": torch.tensor([[1, 1, 2], [1, 1, 1], [1, 1, 2]]),
        "num_images": [1, 0, 2],
        "mm_token_type_ids": torch.arange(6).reshape(3, 2),
        "num_tiles": None,
    }
    found = rows_of(torch.tensor([1, 2]), given)
    assert found["pixel_values"].flatten().tolist() == [2, 3, 4]
    assert found["image_grid_thw"].tolist() == [[1, 1, 1], [1, 1, 2]]
    assert found["num_images"] == [0, 2]
    assert found["mm_token_type_ids"].tolist() == [[2, 3], [4, 5]]
    assert found["num_tiles"] is None


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_learns_from_what_the_library_gives_it(steps: int) -> None:
    """In the order of sampling."""
    utils = pytest.importorskip("trl.trainer.utils")
    sampled = {
        "prompt_ids": torch.arange(12)[:, None],
        "num_images": list(range(12)),
        "num_items_in_batch": torch.tensor(24),
        "ref_per_token_logps": None,
    }
    torch.manual_seed(3)
    shuffled = utils.shuffle_sequence_dict(sampled)
    torch.manual_seed(3)
    found = neighbours_together(sampled, steps)
    of_steps = shuffled["prompt_ids"].view(steps, -1)
    assert shuffled["num_images"] != sorted(shuffled["num_images"])
    assert torch.equal(found["prompt_ids"].view(steps, -1), of_steps.sort(dim=1).values)
    assert found["num_images"] == found["prompt_ids"].flatten().tolist()
    assert found["num_items_in_batch"] == 24
    assert found["ref_per_token_logps"] is None
