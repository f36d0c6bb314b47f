"""The model that training started from, as the divergence of ASFT and its kin needs it.

    adapters_off   the policy itself with its LoRA adapters switched off: no second model
    frozen         a second copy, whole on each device, outside the trainer's model tree
    cache          hidden states of all training tokens, computed once and kept in the run folder

A frozen copy is neither sharded nor saved by ZeRO-3, and sits on the device of the batch, wherever
the launcher puts that. The cache keeps hidden states and the head, not logits: these follow from
them exactly and take vocabulary / width times the room.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers.integrations import deepspeed

from harness.errors import DataError
from trainers.token_head import Head, Reference
from trainers.token_model import counted_positions, head_of

Batch = Mapping[str, Tensor]
"""Of a collator: input_ids, labels, and attention_mask or position_ids."""


class StartModel(Protocol):
    def reference(self, policy: Any, batch: Batch) -> Reference:
        """Of the positions that count in the batch. policy: as wrapped for training."""


class AdaptersOff:
    """peft: the PEFT model inside all wrappers. A DDP wrapper does not have `disable_adapter`.

    PEFT's own context inspects every layer before and after (3 % of a step of a small model) and
    touches `requires_grad`; without gradients the switch of each layer is all that is needed.
    """

    def __init__(self, *, peft: Any) -> None:
        self.modules = list(peft.modules())
        self.layers = [each for each in self.modules if isinstance(each, BaseTunerLayer)]

    def reference(self, policy: Any, batch: Batch) -> Reference:
        with torch.no_grad(), self._as_at_the_start():
            states = policy(**_inputs(batch), states_only=True).hidden
        return Reference(hidden=_counted(states, batch))

    @contextmanager
    def _as_at_the_start(self) -> Iterator[None]:
        training = [each.training for each in self.modules]
        for module in self.modules:
            module.training = False
        for layer in self.layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in self.layers:
                layer._disable_adapters = False
            for module, held in zip(self.modules, training, strict=True):
                module.training = held


class FrozenCopy:
    """model: a causal language model that nothing else holds; moved to the batch's device."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    def reference(self, policy: Any, batch: Batch) -> Reference:
        with torch.no_grad():
            if self.model.device != batch["input_ids"].device:
                self.model.to(batch["input_ids"].device)
            output = self.model.base_model(**_inputs(batch), use_cache=False)
        hidden = _counted(output.last_hidden_state, batch)
        return Reference(hidden=hidden, head=head_of(self.model))


class CachedStates:
    """Hidden states read back from a folder that `fill_cache` wrote."""

    def __init__(self, folder: Path, head: Head) -> None:
        self.head = head
        self.places: dict[str, tuple[str, int, int]] = {}
        self.files: dict[str, Tensor] = {}
        for index in sorted(folder.glob("*.json")):
            entry = json.loads(index.read_text(encoding="utf-8"))
            self.places |= {key: (index.stem, *place) for key, place in entry["places"].items()}
            if entry["rows"]:
                self.files[index.stem] = torch.from_file(
                    str(index.with_suffix(".states")),
                    shared=False,
                    size=entry["rows"] * entry["width"],
                    dtype=getattr(torch, entry["dtype"]),
                ).view(entry["rows"], entry["width"])

    def reference(self, policy: Any, batch: Batch) -> Reference:
        device = batch["input_ids"].device
        hidden = torch.cat([self._states(key) for key in _keys(batch)]).to(device)
        return Reference(hidden=hidden, head=_moved(self.head, device))

    def _states(self, key: str) -> Tensor:
        if key not in self.places:
            raise DataError("a training example is not in the cache of reference states")
        name, start, count = self.places[key]
        return self.files[name][start : start + count]


def fill_cache(
    folder: Path,
    start: FrozenCopy,
    batches: Iterable[Batch],
    *,
    rank: int = 0,
    processes: int = 1,
) -> None:
    """Write the hidden states of this process's share of the data, and an index of them.

    The index is written last, so a cache without one is known to be torn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{rank}-of-{processes}.json"
    index.unlink(missing_ok=True)
    places: dict[str, tuple[int, int]] = {}
    rows, width, dtype = 0, 0, "float32"
    with index.with_suffix(".states").open("wb") as file:
        for batch in batches:
            hidden = start.reference(None, batch).hidden.cpu()
            width, dtype = hidden.shape[1], str(hidden.dtype).removeprefix("torch.")
            file.write(hidden.contiguous().view(torch.uint8).numpy().tobytes())
            for key, count in zip(_keys(batch), _counts(batch), strict=True):
                places[key] = (rows, count)
                rows += count
    entry = {"rows": rows, "width": width, "dtype": dtype, "places": places}
    draft = index.with_suffix(".draft")
    draft.write_text(json.dumps(entry), encoding="utf-8")
    draft.rename(index)


def cache_is_whole(folder: Path, processes: int) -> bool:
    """Whether as many processes as there are now have written all of their share."""
    names = {f"{rank}-of-{processes}.json" for rank in range(processes)}
    return names == {path.name for path in folder.glob("*.json")}


@contextmanager
def unsharded() -> Iterator[None]:
    """Inside, models are loaded whole even where ZeRO-3 would split them up while loading."""
    held = deepspeed._hf_deepspeed_config_weak_ref
    config = None if held is None else held()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """What the model reads: not the labels, whose loss nobody asked the reference for."""
    return {name: value for name, value in batch.items() if name != "labels"}


def _counted(states: Tensor, batch: Batch) -> Tensor:
    return states[:, :-1][counted_positions(batch["labels"])]


def _counts(batch: Batch) -> list[int]:
    counts: list[int] = counted_positions(batch["labels"]).sum(1).tolist()
    return counts


def _keys(batch: Batch) -> list[str]:
    """A name for each row by its tokens and labels, whatever it was padded to."""
    lengths = batch["attention_mask"].sum(1).tolist()
    tokens = torch.stack([batch["input_ids"], batch["labels"]], dim=-1).cpu()
    return [
        hashlib.blake2b(row[:length].numpy().tobytes(), digest_size=16).hexdigest()
        for row, length in zip(tokens, lengths, strict=True)
    ]


def _moved(head: Head, device: torch.device) -> Head:
    return Head(
        weight=head.weight.to(device),
        bias=None if head.bias is None else head.bias.to(device),
        scale=head.scale,
        softcap=head.softcap,
    )
