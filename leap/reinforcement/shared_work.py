"""What GRPO would compute more often than once: a group's responses have the same images, and many teach nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

OF_IMAGES = ("pixel_values", "image_grid_thw")


def see_images_once(model: Any) -> None:
    """Let the vision tower look at each image of a batch once, in place: the responses of a group share theirs, and TRL
    gives every response its own copy. Gradients are those of all copies."""
    inner = model.model
    original: Callable[..., Any] = inner.get_image_features

    def once(pixel_values: Tensor, image_grid_thw: Tensor | None = None, **options: Any) -> Any:
        if image_grid_thw is None:
            return original(pixel_values, image_grid_thw, **options)
        images = pixel_values.split(image_grid_thw.prod(-1).tolist())
        places, first = copies(images)
        if len(first) == len(images):
            return original(pixel_values, image_grid_thw, **options)
        found = original(torch.cat([images[one] for one in first]), image_grid_thw[first], **options)
        seen: tuple[Tensor, ...] = found.pooler_output
        found.pooler_output = tuple(seen[place] for place in places)
        if layers := getattr(found, "deepstack_features", None):
            sizes = [len(features) for features in seen]
            found.deepstack_features = [_layer_of_copies(layer, sizes, places) for layer in layers]
        return found

    inner.get_image_features = once


def process_images_once(image_processor: Any) -> None:
    """Let an image that a batch holds often become patches once, in place: TRL asks for those of every response."""
    original: Callable[..., Any] = image_processor.preprocess

    def once(images: Any, **options: Any) -> Any:
        flat = [image for group in images for image in (group if isinstance(group, list) else [group])]
        different = {id(image): image for image in flat}
        made = original(list(different.values()), **options)
        patches = made["pixel_values"].split(made["image_grid_thw"].prod(-1).tolist())
        parts = dict(zip(different, zip(patches, made["image_grid_thw"], strict=True), strict=True))
        pixels, grids = zip(*(parts[id(image)] for image in flat), strict=True)
        return BatchFeature({"pixel_values": torch.cat(pixels), "image_grid_thw": torch.stack(grids)})

    image_processor.preprocess = once


def _layer_of_copies(layer: Tensor | tuple[Tensor, ...], sizes: list[int], places: list[int]) -> Any:
    """A layer's features, in the form they came in: an image each, or (transformers 5.17) all images in one."""
    if isinstance(layer, Tensor):
        images = layer.split(sizes)
        return torch.cat([images[place] for place in places])
    return tuple(layer[place] for place in places)


def copies(images: tuple[Tensor, ...]) -> tuple[list[int], list[int]]:
    """For each image which of the different ones it is, and where each of these stands first."""
    sums = torch.stack([image.double().sum() for image in images]).tolist()  # one wait for the device
    by_sum: dict[tuple[float, int], list[int]] = {}
    places, first = [], list[int]()
    for number, (image, total) in enumerate(zip(images, sums, strict=True)):
        alike = by_sum.setdefault((total, len(image)), [])
        place = next((one for one in alike if torch.equal(images[first[one]], image)), None)
        if place is None:
            place = len(first)
            first.append(number)
            alike.append(place)
        places.append(place)
    return places, first


def images_by_row(inputs: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Patches and grids of each row of a batch, which has `num_images` of them."""
    grids = inputs["image_grid_thw"].split(inputs["num_images"])
    sizes = torch.stack([grid.prod(-1).sum() for grid in grids]).tolist()  # one wait for the device
    return inputs["pixel_values"].split(sizes), grids


def images_of(rows: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's arguments for the images of these rows."""
    found = zip(OF_IMAGES, images_by_row(inputs), strict=True)
    return {name: torch.cat([values[row] for row in rows]) for name, values in found}


def rows_of(rows: Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Of TRL's arguments about images, a row each but for the images themselves, those of these rows."""
    if inputs.get("pixel_values") is None:
        return dict(inputs)
    kept: list[int] = rows.tolist()
    alone = {name: value[rows] for name, value in inputs.items() if isinstance(value, Tensor) and name not in OF_IMAGES}
    return {**inputs, **alone, **images_of(kept, inputs), "num_images": [inputs["num_images"][row] for row in kept]}


def neighbours_together(sampled: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """What TRL's `shuffle_sequence_dict` does, with the same random numbers, but within each of the `steps` that learn
    from what was `sampled` in its order, in which a group's responses are neighbours: micro-batches of few prompts."""
    count = len(sampled["prompt_ids"])
    order = torch.randperm(count).view(steps, -1).sort(dim=1).values.flatten()

    def ordered(values: Any) -> Any:
        if values is None or (isinstance(values, Tensor) and not values.dim()):
            return values
        return values[order] if isinstance(values, Tensor) else [values[row] for row in order.tolist()]

    return {name: ordered(values) for name, values in sampled.items()}


def that_teach(inputs: dict[str, Any], largest: Callable[[int], int]) -> dict[str, Any]:
    """The responses of a micro-batch with an advantage: those of a group that all earn the same have none, and no
    gradient where neither the divergence (`beta`) nor the number of responses is part of the loss. Others fill it up to
    the `largest` number of all ranks, since TRL gathers a figure of each response; one is always left."""
    teaches = inputs["advantages"] != 0
    missing = max(1, largest(int(teaches.sum()))) - int(teaches.sum())
    teaches[(~teaches).nonzero().flatten()[:missing]] = True
    if bool(teaches.all()):
        return inputs
    found = {
        name: value[teaches]
        if isinstance(value, Tensor) and value.dim() and len(value) == len(teaches) and name not in OF_IMAGES
        else value
        for name, value in inputs.items()
    }
    if "num_images" in inputs:
        kept = teaches.nonzero().flatten().tolist()
        found |= images_of(kept, inputs)
        found["num_images"] = [inputs["num_images"][row] for row in kept]
    return found
