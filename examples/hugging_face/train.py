"""A small transformer of Hugging Face's that tells which module of Python's library a line of code is from."""

import sysconfig
import tempfile
from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer, TrainingArguments

from swathe.integrations.huggingface import SwatheCallback

MODULES = ("argparse", "datetime", "inspect", "turtle")
LENGTH = 48


def dataset():
    """Lines of the modules as bytes, every fifth one to evaluate on."""
    examples = []
    for label, module in enumerate(MODULES):
        text = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_text()
        lines = [line.strip().encode()[:LENGTH] for line in text.splitlines() if len(line.strip()) > 20]
        for line in lines[:200]:
            tokens = torch.zeros(LENGTH, dtype=torch.long)
            tokens[: len(line)] = torch.tensor(list(line))
            examples.append({"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": label})
    return [one for index, one in enumerate(examples) if index % 5], examples[::5]


def train(params):
    config = DistilBertConfig(
        vocab_size=256, max_position_embeddings=LENGTH, n_layers=1, n_heads=4, dim=params.width,
        hidden_dim=2 * params.width, num_labels=len(MODULES), dropout=params.dropout,
    )  # fmt: skip
    training, evaluation = dataset()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=params.epochs,
            learning_rate=params.lr,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=160,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        )
        callback = SwatheCallback()
        model = DistilBertForSequenceClassification(config)
        trainer = Trainer(model, arguments, train_dataset=training, eval_dataset=evaluation, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.resume_path(arguments))
    return model
