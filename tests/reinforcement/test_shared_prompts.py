"""A group's responses behind one prompt have the log-probabilities and gradients that they have each behind its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from leap.models.loading import load_model
from leap.reinforcement import shared_prompts
from leap.reinforcement.shared_prompts import share_prompts, share_sampling

pytest.importorskip("trl")
PAD, PROMPT, RESPONSE = 0, 14, 5


def batch(loaded: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Six responses in the order in which TRL may have shuffled them: three to one prompt, two to another one of the
    same words with another image, one to a third, shorter one. They are of unlike lengths."""
    torch.manual_seed(0)
    image, start = loaded.config.image_token_id, loaded.config.vision_start_token_id
    words = torch.randint(20, 60, (PROMPT,))
    words[1:6] = torch.tensor([start, *[image] * 4])
    prompts = [words, words, words.clone(), words]
    third = torch.cat([torch.tensor([PAD, PAD, 21]), words[1:6], torch.randint(20, 60, (PROMPT - 8,))])
    pixels = torch.randn(3, 16, loaded.config.vision_config.patch_size**2 * 6)
    of = [(0, 0), (1, 1), (0, 0), (2, 2), (1, 1), (0, 0)]  # prompt, image
    texts = [prompts[0], prompts[0], third]
    rows, masks = [], []
    for number, (prompt, _) in enumerate(of):
        length = 1 + (number * 3) % RESPONSE
        response = torch.cat([torch.randint(20, 60, (length,)), torch.full((RESPONSE - length,), PAD)])
        rows.append(torch.cat([texts[prompt], response]))
        masks.append(torch.cat([texts[prompt] != PAD, torch.arange(RESPONSE) < length]).long())
    ids = torch.stack(rows)
    shown = {
        "pixel_values": torch.cat([pixels[image] for _, image in of]),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * len(of)),
        "num_images": [1] * len(of),
        "mm_token_type_ids": (ids == image).long(),
    }
    return ids, torch.stack(masks), shown


@pytest.mark.parametrize(("width", "rows"), [(8192, 3), (PROMPT + 8, 4)])  # the second group's have 5 and 4 tokens
def test_responses_behind_one_prompt_are_as_each_behind_its_own(
    model: Path, monkeypatch: pytest.MonkeyPatch, width: int, rows: int
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    monkeypatch.setattr(shared_prompts, "_ROW", width)
    loaded = load_model(model, "float32")
    add_fused_lm_head(loaded, temperature=0.7, outputs=("log_probs", "entropy"))
    ids, mask, shown = batch(loaded)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :PROMPT] = -100
    weights = [weight for name, weight in loaded.named_parameters() if "layers.0" in name or "patch_embed" in name]

    alone = {name: value for name, value in shown.items() if name != "num_images"}
    plain = loaded(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **alone)
    shared = share_prompts(loaded, ids, mask, RESPONSE, shown, PAD)
    assert shared is not None
    assert shared.inputs["input_ids"].shape[0] == rows
    assert shared.inputs["pixel_values"].shape[0] == 16 * rows
    together = loaded(**shared.inputs, fused_lm_head=True)

    known = mask[:, PROMPT:].bool()
    for name in ("log_probs", "entropy"):
        expected = getattr(plain, name)[:, -RESPONSE:] * known
        assert torch.allclose(shared.of_responses(getattr(together, name)), expected, atol=1e-5), name
    factors = torch.randn(ids.shape[0], RESPONSE)
    ones = torch.autograd.grad((plain.log_probs[:, -RESPONSE:] * known * factors).sum(), weights)
    others = torch.autograd.grad((shared.of_responses(together.log_probs) * factors).sum(), weights)
    for one, other in zip(ones, others, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max() + 1e-3))


def test_responses_that_are_alike_stand_there_once(model: Path) -> None:
    from trl.trainer.utils import add_fused_lm_head

    loaded = load_model(model, "float32")
    add_fused_lm_head(loaded, temperature=0.7, outputs=("log_probs", "entropy"))
    ids, mask, shown = batch(loaded)
    plain = share_prompts(loaded, ids, mask, RESPONSE, shown, PAD)
    rows = [0, 1, 0, 3, 1, 0]  # where the batch has rows 0, 2 and 5 of a prompt, and 1 and 4 of another
    alike = share_prompts(loaded, ids[rows], mask[rows], RESPONSE, shown, PAD)
    assert plain
    assert alike
    assert alike.inputs["input_ids"].shape[1] < plain.inputs["input_ids"].shape[1]
    found, expected = (one.of_responses(loaded(**one.inputs, fused_lm_head=True).log_probs) for one in (alike, plain))
    assert torch.allclose(found, expected[rows], atol=1e-5)


def test_responses_that_share_nothing_are_left_as_they_are(model: Path) -> None:
    loaded = load_model(model, "float32")
    ids, mask, shown = batch(loaded)
    kept = [1, 3]
    alone = {
        **shown,
        "pixel_values": shown["pixel_values"].reshape(6, 16, -1)[kept].flatten(0, 1),
        "image_grid_thw": shown["image_grid_thw"][kept],
        "num_images": [1, 1],
        "mm_token_type_ids": shown["mm_token_type_ids"][kept],
    }
    assert share_prompts(loaded, ids[kept], mask[kept], RESPONSE, alone, PAD) is None


def test_a_prompt_that_is_read_once_is_answered_as_before(model: Path) -> None:
    """With sampled responses too: the random numbers are the same."""
    loaded = load_model(model, "float32").eval()
    ids, mask, shown = batch(loaded)
    rows = [0, 0, 1, 1, 3, 3]
    inputs = {
        "input_ids": ids[rows, :PROMPT],
        "attention_mask": mask[rows, :PROMPT],
        "mm_token_type_ids": shown["mm_token_type_ids"][rows, :PROMPT],
        "pixel_values": shown["pixel_values"].reshape(6, 16, -1)[rows].flatten(0, 1),
        "image_grid_thw": shown["image_grid_thw"][rows],
        "max_new_tokens": 6,
    }

    def responses(**options: bool) -> list[list[int]]:
        torch.manual_seed(1)
        found: list[list[int]] = loaded.generate(**inputs, **options)[:, PROMPT:].tolist()
        return found

    plain = [responses(do_sample=sampled) for sampled in (False, True)]
    share_sampling(loaded)
    read = list[tuple[int, ...]]()
    loaded.model.language_model.register_forward_pre_hook(
        lambda _, __, given: read.append(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    assert [responses(do_sample=sampled) for sampled in (False, True)] == plain
    assert read[:3] == [(3, PROMPT - 1), (3, 2), (3, 2)]
