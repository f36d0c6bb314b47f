"""Between lm-eval's instances and our requests: one request a question and context."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.types import Completion, Message, Prompt, Request, RequestKind, SamplingParams

Instance = Any  # lm_eval.api.instance.Instance, which has no types of use to us

# Around a conversation, where lm-eval wants the text that a chat template makes of it: our engines
# apply the template.
_START, _END = "\x02", "\x03"

# In lm-eval's order of precedence (models.utils.normalize_gen_kwargs).
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {"until", "do_sample", "temperature", "top_p", "num_beams", *_MAX_TOKENS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A request and the instances that its answer serves: one for each choice, or a single one.

    sample_id: of the question. group: the subtask.
    """

    sample_id: str
    group: str
    request: Request
    instances: tuple[Instance, ...]

    def answers(self, completions: Sequence[Completion]) -> Iterator[tuple[Instance, list[Any]]]:
        """Each instance with as many answers as lm-eval wants of it, in the form it wants."""
        first = completions[0]
        if self.request.kind == "generate":
            (instance,) = self.instances
            texts = [completion.text for completion in completions]
            # A greedy answer is given once, however often it is wanted.
            yield instance, texts if len(texts) > 1 else texts * instance.repeats
            return
        scored = zip(first.choice_logprobs, first.choice_greedy, strict=True)
        for instance, (logprob, greedy) in zip(self.instances, scored, strict=True):
            answer = logprob if self.request.kind == "rolling" else (logprob, greedy)
            yield instance, [answer] * instance.repeats


def asked(instances: Iterable[Instance], seed: int = 0) -> Iterator[Asked]:
    """What to ask for these instances, in their order; seed: of sampling.

    Continuations of one context in one question become one request.
    Raises UsageError for what our engines have no request for.
    """
    for (name, doc_id), own in itertools.groupby(instances, lambda i: (i.task_name, i.doc_id)):
        sample_id = f"{name}/{doc_id}"
        for n, bundle in enumerate(_bundles(own)):
            yield Asked(
                sample_id=sample_id,
                group=name,
                request=_request(f"{sample_id}/{n}" if n else sample_id, bundle, seed),
                instances=tuple(bundle),
            )


def _bundles(instances: Iterable[Instance]) -> list[list[Instance]]:
    bundles: dict[object, list[Instance]] = {}
    for instance in instances:
        shared = instance.request_type == "loglikelihood"
        bundles.setdefault(instance.args[0] if shared else id(instance), []).append(instance)
    return list(bundles.values())


def _request(request_id: str, bundle: Sequence[Instance], seed: int) -> Request:
    first = bundle[0]
    prompt = _prompt(first.args[0], first.task_name)
    match first.request_type:
        case "loglikelihood":
            choices = tuple(instance.args[1] for instance in bundle)
            kind: RequestKind = "choose" if len(choices) > 1 else "loglikelihood"
            return Request(id=request_id, kind=kind, prompt=prompt, choices=choices)
        case "loglikelihood_rolling":
            return Request(id=request_id, kind="rolling", prompt=prompt)
        case "generate_until":
            sampling = _sampling(first.args[1], first.repeats, seed, first.task_name)
            return Request(id=request_id, kind="generate", prompt=prompt, sampling=sampling)
        case other:
            raise UsageError(
                f"`{first.task_name}` sends requests of type `{other}`",
                "tasks that score or generate text can be asked",
            )


def _sampling(settings: dict[str, Any], repeats: int, seed: int, task: str) -> SamplingParams:
    """lm-eval's generation settings; one that would be ignored is refused."""
    given = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(given.keys() - _KNOWN) + (
        ["num_beams"] if given.get("num_beams", 1) > 1 else []
    )
    if unknown:
        raise UsageError(
            f"`{task}` asks for the generation setting `{unknown[0]}`, which engines do not have",
            "write a task file of your own without it, and name its folder in LM_EVAL_INCLUDE_PATH",
        )
    until = given.get("until", [])
    temperature = float(given.get("temperature", 0.0)) if given.get("do_sample", True) else 0.0
    lengths = [int(given[name]) for name in _MAX_TOKENS if name in given]
    return SamplingParams(
        temperature=temperature,
        top_p=float(given.get("top_p", 1.0)) if temperature else 1.0,
        max_tokens=lengths[0] if lengths else 256,
        n=repeats if temperature else 1,
        stop=tuple([until] if isinstance(until, str) else filter(None, until)),
        seed=seed if temperature else 0,
    )


def marked(messages: Sequence[dict[str, str]]) -> str:
    """A conversation as one text, for lm-eval to pass on.

    >>> _prompt(marked([{"role": "user", "content": "hi"}]), "t")
    (Message(role='user', content='hi'),)
    """
    return f"{_START}{json.dumps(messages)}{_END}"


def _prompt(text: str, task: str) -> Prompt:
    if _START not in text:
        return text
    if not text.startswith(_START) or not text.endswith(_END) or text.count(_START) > 1:
        raise UsageError(
            f"`{task}` puts text of its own around a conversation",
            "ask it without `--chat`",
        )
    turns = json.loads(text[len(_START) : -len(_END)])
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)


def readable(target: Any, one: Asked) -> tuple[str, tuple[str, ...]]:
    """The reference answer as text, and the choices: by number where their texts are the same."""
    choices = tuple(choice.strip() for choice in one.request.choices)
    if len(set(choices)) < len(choices):
        choices = tuple(str(n) for n in range(len(choices)))
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices):
        return choices[target], choices
    return target if isinstance(target, str) else json.dumps(target, default=str), choices


def metric_name(metric: str, filtered: str) -> str:
    """As lm-eval writes it, without the filter that does nothing."""
    return metric if filtered == "none" else f"{metric},{filtered}"
