"""The seed's way to train: the library's Trainer over a bfloat16 model, images prepared in the collator.

Stock parts as their documentation shows them, with one repair without which no current release trains Qwen3-VL at all:
`mm_token_type_ids` is passed to the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from leap.data.chat_encoding import IGNORED
from leap.data.image import ImageSize
from leap.models.loading import load_model
from leap.records.training import TrainingSample

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


class SeedCollator:
    """Rows to a batch by the library's processor, padded to the longest."""

    def __init__(self, processor: Any, size: ImageSize, root: Path) -> None:
        self._processor, self._root = processor, root
        unit = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
        self._bounds = {"shortest_edge": size.min_tokens * unit, "longest_edge": size.max_tokens * unit}

    def __call__(self, rows: Sequence[TrainingSample]) -> dict[str, Any]:
        answers = [row.target.steps + "<|im_end|>" for row in rows]
        texts = [self._prompt(row) + answer for row, answer in zip(rows, answers, strict=True)]
        images = [Image.open(self._root / path).convert("RGB") for row in rows for path in row.images()]
        batch = self._processor(
            text=texts,
            images=images,
            size=self._bounds,
            padding=True,
            padding_side="right",
            return_mm_token_type_ids=True,
            return_tensors="pt",
        )
        batch["labels"] = self._labels(batch, answers)
        return batch

    def _prompt(self, row: TrainingSample) -> str:
        conversation = [
            {"role": message.role, "content": [part.model_dump() for part in message.parts()]}
            for message in row.messages
        ]
        return self._processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)

    def _labels(self, batch: Any, answers: Sequence[str]) -> torch.Tensor:
        labels = torch.full_like(batch["input_ids"], IGNORED)
        ends = batch["attention_mask"].sum(dim=1).tolist()
        for index, (answer, end) in enumerate(zip(answers, ends, strict=True)):
            wanted = slice(end - len(self._processor.tokenizer(answer)["input_ids"]), end)
            labels[index, wanted] = batch["input_ids"][index, wanted]
        return labels


class SeedTrainer(Trainer):
    """The stock Trainer; it only writes down each micro-batch's loss and number of labels."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.losses: list[torch.Tensor] = []
        self.counts: list[torch.Tensor] = []

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(model, inputs, *arguments, **options)
        self.losses.append(loss.detach())
        self.counts.append((inputs["labels"] != IGNORED).sum())
        return loss

    def step_losses(self) -> list[float]:
        """Each step's loss over the labels of all its micro-batches and processes."""
        counts = torch.stack(self.counts).double()
        sums = torch.stack([(torch.stack(self.losses).double() * counts), counts])
        sums = sums.unflatten(1, (-1, self.args.gradient_accumulation_steps)).sum(dim=2)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        return (sums[0] / sums[1]).tolist()


def train_as_seed(
    model_folder: Path,
    processor: Any,
    size: ImageSize,
    rows: Sequence[TrainingSample],
    root: Path,
    mode: str,
    batch: tuple[int, int],
    steps: int,
    warmup_steps: int,
    callbacks: Sequence[Any],
) -> list[float]:
    """Train `steps` steps of batch[0] rows x batch[1] accumulated batches a process; returns the steps' losses."""
    model = load_model(model_folder, "bfloat16", attention="sdpa")
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=str(root / "output" / "seed"),
        per_device_train_batch_size=batch[0],
        gradient_accumulation_steps=batch[1],
        max_steps=steps,
        learning_rate=2e-4 if mode == "lora" else 1.5e-5,
        warmup_steps=warmup_steps,
        weight_decay=0.01,
        bf16=True,
        gradient_checkpointing=True,
        dataloader_num_workers=0,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=42,
    )
    trainer = SeedTrainer(
        model=model,
        args=arguments,
        data_collator=SeedCollator(processor, size, root),
        train_dataset=list(rows),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer.step_losses()
