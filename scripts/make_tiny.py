"""Train the embedded pair `Tiny` from nothing: `python scripts/make_tiny.py --out harness/tiny`.

Two Llama-architecture checkpoints of under 2 MB: `base` is stopped half-way to solving the word
problems of the task `arithmetic`, `instruct` goes on from the saved base until it solves most of
them. All text is generated here; the same seed on the same machine writes the same bytes.
Needs torch 2.9 or newer (for the Muon optimiser), two cores and about four minutes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Where others use the cores too, threads that spin while they wait make each step ten times slower.
os.environ["OMP_WAIT_POLICY"] = "passive"

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from tasks.arithmetic import TEST_ITEMS, TEST_SEED
from tasks.arithmetic_problems import Row, held_out_problems, problems

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 1

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, BOS, EOS, TURN, TURN_END)  # ids 0 to 4
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# ---- text ------------------------------------------------------------------------------------

# Pieces of a document, each with the weight of its tokens in the loss. Questions count little:
# which name or number comes next cannot be learned. Results count most: they are the hard part.
Document = list[tuple[str, float]]
ASKED, ANSWERED, COMPUTED = 0.1, 1.0, 4.0


def answered(text: str) -> Document:
    """The text of an answer, split so that the result in each `<<a+b=c>>` has its own weight."""
    pieces = re.split(r"(?<==)([0-9]+)(?=>>)", text)
    return [(piece, COMPUTED if n % 2 else ANSWERED) for n, piece in enumerate(pieces)]


def solo(row: Row) -> Document:
    """One problem, as the task shows it."""
    return [
        (f"{BOS}Question: {row['question']}\nAnswer:", ASKED),
        *answered(f" {row['answer']}{EOS}"),
    ]


def several(rows: list[Row]) -> Document:
    """Problems one after the other, like a prompt with solved examples."""
    document: Document = []
    for row in rows:
        before = "\n\n" if document else BOS
        document.append((f"{before}Question: {row['question']}\nAnswer:", ASKED))
        document += answered(f" {row['answer']}")
    return [*document, (EOS, ANSWERED)]


def chat(rows: list[Row], *, labelled: bool) -> Document:
    """Turns as the chat template writes them, with or without the labels of the task's prompt."""
    document: Document = [(BOS, ASKED)]
    for row in rows:
        asked = f"Question: {row['question']}\nAnswer:" if labelled else row["question"]
        document.append((f"{TURN}user\n{asked}{TURN_END}\n{TURN}assistant\n", ASKED))
        document += answered(f"{row['answer']}{TURN_END}\n")
    return [*document, (EOS, ANSWERED)]


def choice(generator: random.Random, row: Row) -> Document:
    """The question with four results to choose from."""
    right = int(row["answer"].rsplit(" ", 1)[1])
    near = [n for n in range(max(1, right - 15), right + 16) if n != right]
    options = [right, *generator.sample(near, 3)]
    generator.shuffle(options)
    listed = "".join(f"\n{letter}. {n}" for letter, n in zip("ABCD", options, strict=True))
    return [
        (f"{BOS}{row['question']}{listed}\nAnswer:", ASKED),
        (f" {'ABCD'[options.index(right)]}{EOS}", ANSWERED),
    ]


def drill(generator: random.Random) -> Document:
    """Bare calculations in the marks that the answers use."""
    lines = []
    for _ in range(8):
        left, right = generator.randint(2, 40), generator.randint(2, 20)
        x, y = generator.randint(2, 9), generator.randint(2, 9)
        high, low = max(left, right), min(left, right)
        expression, result = generator.choice(
            (
                (f"{left}+{right}", left + right),
                (f"{high}-{low}", high - low),
                (f"{x}*{y}", x * y),
            )
        )
        lines.append(f"{expression}=<<{expression}={result}>>{result}")
    return [(BOS, ASKED), *answered("\n".join(lines) + EOS)]


_list = str.split
_WHO = _list("teacher farmer child doctor baker dog cat bird driver neighbour girl boy")
_WHAT = _list("house garden street river school market tree bridge window letter story song")
_HOW = _list("old small green quiet long warm empty new bright little good strange")
_DID = _list("walks to,looks at,writes about,waits near,likes,remembers,paints", ",")
_WHEN = _list("In the morning,Every day,On Monday,After lunch,At night,Today,In winter", ",")


def prose(generator: random.Random) -> Document:
    """A few plain sentences."""
    pick = generator.choice
    sentences = []
    for _ in range(generator.randint(3, 6)):
        who, what, how, did = pick(_WHO), pick(_WHAT), pick(_HOW), pick(_DID)
        sentences.append(
            pick(
                (
                    f"{pick(_WHEN)} the {who} {did} the {how} {what}.",
                    f"The {how} {what} is near the {pick(_WHAT)}.",
                    f"The {who} {did} the {what} because it is {how}.",
                    f"Is the {what} {how}? Yes, the {what} is very {how}.",
                    f"A {how} {what} and a {pick(_HOW)} {pick(_WHAT)} belong to the {who}.",
                )
            )
        )
    return [(f"{BOS}{' '.join(sentences)}{EOS}", 0.2)]


def documents(seed: int, *, chats: float) -> Iterator[Document]:
    """Training text without end; `chats` is the share of documents in chat form.

    Problems come from the training side only, so no test question is ever among them.
    """
    generator = random.Random(seed)
    rows = _endless_rows(seed)
    kinds = {"drill": 0.08, "prose": 0.03, "choice": 0.05, "several": 0.12, "chat": chats}
    kinds["solo"] = 1 - sum(kinds.values())
    while True:
        (kind,) = generator.choices(list(kinds), list(kinds.values()))
        if kind == "drill":
            yield drill(generator)
        elif kind == "prose":
            yield prose(generator)
        elif kind == "choice":
            yield choice(generator, next(rows))
        elif kind == "several":
            yield several([next(rows) for _ in range(generator.randint(2, 7))])
        elif kind == "chat":
            turns = generator.choice((1, 1, 1, 2, 4))
            yield chat([next(rows) for _ in range(turns)], labelled=generator.random() < 0.7)
        else:
            yield solo(next(rows))


def _endless_rows(seed: int) -> Iterator[Row]:
    for part in itertools.count():
        yield from problems(1000 * seed + part, 2000)


# ---- tokens ----------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE, so that any text has tokens; each digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,  # the most; the text has fewer pairs to merge
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[Document]) -> list[tuple[list[int], list[float]]]:
    """Token ids of each document, and the weight of each token."""
    pieces = [piece for document in texts for piece, _ in document]
    encodings = iter(tokenizer.encode_batch(pieces, add_special_tokens=False))
    encoded = []
    for document in texts:
        ids: list[int] = []
        weights: list[float] = []
        for _, weight in document:
            piece = next(encodings).ids
            ids += piece
            weights += [weight] * len(piece)
        encoded.append((ids, weights))
    return encoded


Batch = tuple[torch.Tensor, torch.Tensor]


def batches(
    tokenizer: Tokenizer, texts: Iterator[Document], rows: int, length: int
) -> Iterator[Batch]:
    """Ids and weights of shape (rows, length + 1); each row starts with a new document."""
    packed: list[tuple[list[int], list[float]]] = []
    ids: list[int] = []
    weights: list[float] = []
    while True:
        for more_ids, more_weights in encode(tokenizer, list(itertools.islice(texts, 256))):
            ids, weights = ids + more_ids, weights + more_weights
            if len(ids) > length:
                packed.append((ids[: length + 1], weights[: length + 1]))
                ids, weights = [], []
        while len(packed) >= rows:
            chosen, packed = packed[:rows], packed[rows:]
            yield torch.tensor([i for i, _ in chosen]), torch.tensor([w for _, w in chosen])


# ---- training --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of training, of rows × length tokens a step.

    seed: of its text, of which `chats` is the share in chat form. The learning rates rise over
    `warmup` steps, then fall to zero, or stay where `stop_at` ends the phase: once that share of
    the check problems is solved.
    """

    seed: int
    chats: float
    steps: int
    rows: int
    length: int
    matrix_rate: float = 3e-3
    other_rate: float = 5e-3
    warmup: int = 20
    stop_at: float | None = None


BASE = Phase(seed=SEED, chats=0.02, steps=1500, rows=4, length=512, warmup=50, stop_at=0.28)
INSTRUCT = Phase(seed=SEED + 1, chats=0.2, steps=120, rows=5, length=512)


@dataclass
class Check:
    """Held-out problems to watch the training with; others than the test items."""

    ids: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def make(cls, tokenizer: Tokenizer, seed: int, n: int) -> Check:
        encoded = encode(tokenizer, [solo(row) for row in held_out_problems(seed, n)])
        longest = max(len(ids) for ids, _ in encoded)
        ids = torch.zeros(n, longest, dtype=torch.long)
        counts = torch.zeros(n, longest, dtype=torch.bool)
        digits = {tokenizer.token_to_id(sign) for sign in "0123456789+-*"}
        for row, (tokens, weights) in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            for place, (token, weight) in enumerate(zip(tokens, weights, strict=True)):
                counts[row, place] = token in digits and weight >= ANSWERED
        return cls(ids, counts)

    @torch.no_grad()
    def solved(self, model: LlamaForCausalLM) -> float:
        """Share of problems in whose answer each digit and sign is the model's first choice.

        One forward pass, and within a few points of the accuracy of greedy decoding.
        """
        right = []
        for ids, counts in zip(self.ids.split(100), self.counts.split(100), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                guessed = model(ids, use_cache=False).logits.argmax(-1)
            right.append(((guessed[:, :-1] == ids[:, 1:]) | ~counts[:, 1:]).all(1))
        return torch.cat(right).float().mean().item()


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, phase: Phase, check: Check) -> None:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in named if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(inner, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(outer, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers = [(muon, phase.matrix_rate), (adam, phase.other_rate)]
    texts = documents(phase.seed, chats=phase.chats)
    stream = batches(tokenizer, texts, phase.rows, phase.length)
    model.train()
    losses = []
    for step in range(1, phase.steps + 1):
        losses.append(_step(model, next(stream), optimizers, _rate(phase, step)))
        if step % 20 == 0:
            solved, loss = check.solved(model), sum(losses[-20:]) / 20
            print(f"  step {step:4d}  loss {loss:.3f}  solved {solved:.3f}", flush=True)
            if phase.stop_at is not None and solved >= phase.stop_at:
                return


def _rate(phase: Phase, step: int) -> float:
    """What the learning rates are multiplied with at a step."""
    rising = min(1.0, step / phase.warmup)
    falling = 1.0 if phase.stop_at is not None else min(1.0, 1.5 * (1 - step / phase.steps))
    return rising * falling


def _step(
    model: LlamaForCausalLM,
    batch: Batch,
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    rate: float,
) -> float:
    ids, weights = batch[0], batch[1][:, 1:].flatten()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1], use_cache=False).logits
    each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    loss = (each * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


# ---- files -----------------------------------------------------------------------------------


def new_model(vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
        attn_implementation="eager",  # on a CPU its backward pass is the faster one
    )
    return LlamaForCausalLM(config)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights are written as bfloat16; `model` itself stays in float32."""
    stored = LlamaForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored.generation_config = GenerationConfig(
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=[SPECIAL.index(EOS), SPECIAL.index(TURN_END)],
    )
    stored.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[TURN, TURN_END],
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors leaves its file to the owner alone


# ---- accuracy --------------------------------------------------------------------------------


@torch.no_grad()
def answers(folder: Path, prompts: list[str]) -> list[str]:
    """What the checkpoint writes greedily after each prompt; the prompts hold their own BOS."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    written: list[str] = []
    for some in (prompts[i : i + 100] for i in range(0, len(prompts), 100)):
        batch = tokenizer(some, add_special_tokens=False, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=80, do_sample=False)
        new = out[:, batch["input_ids"].shape[1] :]
        written += tokenizer.batch_decode(new, skip_special_tokens=True)
    return written


def accuracy(folder: Path, rows: list[Row], prompts: list[str]) -> float:
    """Share of prompts after which the first `#### N` is that of the row."""
    right = 0
    for row, text in zip(rows, answers(folder, prompts), strict=True):
        found = re.search(r"#### (-?[0-9.,]+)", text.split("Question:")[0])
        right += found is not None and found[1] == row["answer"].rsplit(" ", 1)[1]
    return right / len(rows)


def plain_prompts(rows: list[Row], shots: list[Row]) -> list[str]:
    solved = "".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in shots)
    return [f"{BOS}{solved}Question: {row['question']}\nAnswer:" for row in rows]


def chat_prompts(rows: list[Row]) -> list[str]:
    return [
        f"{BOS}{TURN}user\nQuestion: {row['question']}\nAnswer:{TURN_END}\n{TURN}assistant\n"
        for row in rows
    ]


def report(folder: Path) -> None:
    rows = held_out_problems(TEST_SEED, TEST_ITEMS)
    forms = {
        "0-shot": plain_prompts(rows, []),
        "5-shot": plain_prompts(rows, problems(SEED, 5)),
        "chat": chat_prompts(rows),
    }
    for form, prompts in forms.items():
        n = len(rows) if form == "0-shot" else 200
        share = accuracy(folder, rows[:n], prompts[:n])
        print(f"{folder.name} {form}: {share:.1%} of {n} right", flush=True)
    print(f"{folder.name}: {sum(file.stat().st_size for file in folder.iterdir())} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "harness" / "tiny")
    options = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()

    sample = itertools.islice(documents(SEED, chats=0.2), 6000)
    tokenizer = train_tokenizer("".join(text for text, _ in document) for document in sample)
    check = Check.make(tokenizer, SEED, 400)
    model = new_model(tokenizer.get_vocab_size())
    print(f"{model.num_parameters()} parameters, {tokenizer.get_vocab_size()} tokens")
    for name, phase in (("base", BASE), ("instruct", INSTRUCT)):
        print(f"{name}, {time.monotonic() - started:.0f} s after the start:")
        train(model, tokenizer, phase, check)
        save(model, tokenizer, options.out / name)
        # Go on from what was written, so that instruct is a child of the base that ships.
        model = LlamaForCausalLM.from_pretrained(
            options.out / name, dtype=torch.float32, attn_implementation="eager"
        )
    for name in ("base", "instruct"):
        report(options.out / name)
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
