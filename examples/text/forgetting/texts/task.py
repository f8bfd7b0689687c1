"""The model, the data and the local training of the app."""

import csv
import gzip
import re
import zlib
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Context
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForSequenceClassification, BertConfig

CLASSES = 4
WORDS = 1000  # of the small model's vocabulary; 0 is padding, 1 begins a text
LONGEST = 48  # words of a text
HELD_OUT = 5  # every fifth text of a node is for evaluation
SUBJECTS = ("market", "match", "planet", "election")


def build_model(context: Context) -> PeftModel:
    """Build the model: a frozen base, the same on all nodes, with adapters and a head that train.

    Args:
        context: Whose run config names a folder with a model, or the size of a small one.

    Returns:
        The model.
    """
    config = context.run_config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if config["model-path"]:
            base = AutoModelForSequenceClassification.from_pretrained(
                str(config["model-path"]), num_labels=CLASSES
            )
        else:
            base = AutoModelForSequenceClassification.from_config(
                BertConfig(
                    vocab_size=WORDS,
                    hidden_size=int(config["hidden-size"]),
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=2 * int(config["hidden-size"]),
                    max_position_embeddings=LONGEST,
                    initializer_range=0.1,
                    num_labels=CLASSES,
                )
            )
        lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
        model = get_peft_model(base, lora)
    if config["bfloat16"]:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        model.base_model.model.classifier.register_forward_pre_hook(as_the_head)
    return model


def as_the_head(head: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Let the head, which trains in float32, take what the base returns."""
    return (inputs[0].to(head.modules_to_save["default"].weight.dtype),)


def arrays_of(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return what travels: adapters and head."""
    return get_peft_model_state_dict(model)


def load_arrays(model: PeftModel, arrays: dict[str, torch.Tensor]) -> None:
    """Set adapters and head."""
    set_peft_model_state_dict(model, arrays)


class Texts(Dataset):
    """Texts as the numbers of their words; their lengths differ."""

    def __init__(self, texts: list[str], labels: list[int]) -> None:
        """Take texts and their labels."""
        self.texts = texts
        self.labels = labels

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.texts)

    def __getitem__(self, place: int) -> dict[str, list[int] | int]:
        """Return the words of a text, and its label."""
        words = re.findall(r"[a-z]+", self.texts[place].lower())[: LONGEST - 1]
        numbers = [2 + zlib.crc32(word.encode()) % (WORDS - 2) for word in words]
        return {"input_ids": [1, *numbers], "label": self.labels[place]}


def padded(texts: list[dict]) -> dict[str, torch.Tensor]:
    """Make a batch: texts padded to the longest one, with a mask of what is no padding."""
    longest = max(len(text["input_ids"]) for text in texts)
    numbers = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in zip(numbers, texts, strict=True):
        row[: len(text["input_ids"])] = torch.tensor(text["input_ids"])
    labels = torch.tensor([text["label"] for text in texts])
    return {"input_ids": numbers, "attention_mask": (numbers > 0).long(), "labels": labels}


def load_data(context: Context) -> tuple[DataLoader, DataLoader]:
    """Return a node's loaders: of texts to train on, and of texts held out."""
    config = context.run_config
    texts, labels = read_texts(str(config["data-path"]), int(config["texts"]))
    node, nodes = (int(context.node_config[f"{n}"]) for n in ("partition-id", "num-partitions"))
    # Half of a node's texts are of one subject, the others of any.
    generator = np.random.default_rng(0)
    owners = np.where(
        generator.random(len(texts)) < 0.5,
        (np.array(labels) + CLASSES * generator.integers(nodes, size=len(texts))) % nodes,
        generator.integers(nodes, size=len(texts)),
    )
    own = np.flatnonzero(owners == node)
    held_out = np.arange(len(own)) % HELD_OUT == 0
    return tuple(
        DataLoader(
            Texts([texts[i] for i in own[chosen]], [labels[i] for i in own[chosen]]),
            batch_size=int(config["batch-size"]),
            shuffle=shuffle,
            collate_fn=padded,
        )
        for chosen, shuffle in ((~held_out, True), (held_out, False))
    )


@lru_cache(maxsize=1)
def read_texts(path: str, count: int) -> tuple[list[str], list[int]]:
    """Read a csv file, or make texts.

    Args:
        path: Of a file with a header, the label from 1 on in its first column and text in the
            others; empty for texts that are made.
        count: How many texts.

    Returns:
        The texts, and their labels from 0 on.
    """
    if path:
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1 : count + 1]
        return [" ".join(row[1:]) for row in rows], [int(row[0]) - 1 for row in rows]
    generator = np.random.default_rng(1)
    labels = generator.integers(CLASSES, size=count).tolist()
    texts = []
    for label in labels:
        # Zipf's law for common words, and every fourth word of the subject.
        common = [chr(97 + n % 26) * (1 + n // 26) for n in generator.zipf(1.5, 40) % 100]
        subject = [f"{SUBJECTS[label]}{'abcdefgh'[n]}" for n in generator.integers(8, size=40)]
        chosen = np.where(generator.random(40) < 0.25, subject, common)
        texts.append(" ".join(chosen[: generator.integers(8, 40)]))
    return texts, labels


def train_model(model: PeftModel, loader: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train adapters and head by AdamW and return the mean loss of the batches."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate)
    model.train()
    losses = []
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses)) if losses else 0.0


@torch.no_grad()
def evaluate_model(model: PeftModel, loader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    model.eval()
    loss, correct, count = 0.0, 0, 0
    for batch in loader:
        outputs = model(**batch)
        size = len(batch["labels"])
        loss += outputs.loss.item() * size
        correct += int((outputs.logits.argmax(1) == batch["labels"]).sum())
        count += size
    return loss / max(1, count), correct / max(1, count)
