"""Tasks of lm-evaluation-harness run on our engines and get lm-eval's own scores."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import registry, runs, store
from harness.bridge.asking import asked, marked
from harness.bridge.job import Job, require_lm_eval
from harness.bridge.planning import plan_lm_eval
from harness.bridge.scoring import score_lm_eval
from harness.errors import StoreError, UsageError
from harness.evaluate import Options, evaluate, resume
from harness.questions import questions
from harness.types import Completion, Message, Request, Run, SamplingParams, to_json

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance

ROWS = [
    {"question": "The sky is", "options": ["blue today", "made of tin"], "right": 0},
    {"question": "Two and two are", "options": ["five apples", "four apples"], "right": 1},
    {"question": "Water is", "options": ["wet", "a kind of stone, dry"], "right": 0},
]
COMMON = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 2.0}}
TASKS: dict[str, dict[str, Any]] = {
    "small_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_mutual_info"}],
    },
    "small_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{options[0]}}, or {{options[1]}}?",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "small_writing": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{options[right]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "filter_list": [
            {"name": "number", "filter": [{"function": "regex", "regex_pattern": "([0-9]+)"}]},
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of task files: one task of each kind, and the group of them."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    for name, own in TASKS.items():
        _write(folder / f"{name}.yaml", {"task": name, **COMMON, **files, **own})
    aggregate = [{"metric": "acc", "weight_by_size": True}]
    group = {"task": list(TASKS), "metadata": {"version": 1.0}}
    _write(folder / "small.yaml", {"group": "small", "aggregate_metric_list": aggregate, **group})
    _write(folder / "loose.yaml", {"group": "loose", **group})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LM_EVAL_INCLUDE_PATH", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def _write(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value))


@pytest.fixture(scope="module")
def manager(include: Path) -> Any:
    from harness.bridge.build import task_manager

    return task_manager(Job(name="arc_easy", include=(str(include),)))


@pytest.fixture(scope="module")
def theirs(finished: tuple[Path, Run], manager: Any) -> Any:
    """The results of lm-eval's own backend on the same group, model and context."""
    return _evaluated(finished[1], "hf", manager)


@pytest.fixture(scope="module")
def finished(include: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The group on Tiny, with a context so short that texts take several windows."""
    home = tmp_path_factory.mktemp("home")
    settings = {"max_model_len": "40", "dtype": "float32"}
    (run,) = evaluate("Tiny/base", "lm_eval/small", home=home, settings=settings)
    assert run.status == "done", run.error
    return home, run


@pytest.mark.slow
def test_scores_are_those_of_lm_evals_own_backend(finished: tuple[Path, Run], theirs: Any) -> None:
    home, run = finished
    ours = {
        (group or "small", metric): value
        for group, metric, value in _rows(home, "group_name, metric, value", "measures")
        if not metric.endswith("_rate")
    }
    assert ours == pytest.approx(_values(theirs), rel=1e-5)
    assert run.primary_metric == "acc"
    grades = _rows(home, "sample_id, metric, score", "grades")
    scores = {(sample_id, metric): score for sample_id, metric, score in grades}
    scores |= {
        (sample_id, "acc"): score
        for sample_id, score in _rows(home, "sample_id, score", "samples")
        if score is not None
    }
    assert scores == pytest.approx(_scores(theirs), rel=1e-5)


@pytest.mark.slow
def test_our_model_in_lm_evals_evaluator_gets_the_same_scores(
    finished: tuple[Path, Run], theirs: Any, manager: Any
) -> None:
    from harness.bridge.model import BenchLM

    ours = BenchLM("Tiny/base", settings={"max_model_len": "40"})
    values = _values(_evaluated(finished[1], ours, manager))
    assert values == pytest.approx(_values(theirs), rel=1e-5)


def _evaluated(run: Run, model: Any, manager: Any) -> Any:
    from lm_eval import simple_evaluate

    arguments = {"pretrained": run.model_path, "dtype": "float32", "max_length": 40}
    return simple_evaluate(
        model=model,
        model_args=arguments if model == "hf" else None,
        tasks=["small"],
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
        task_manager=manager,
    )


def _values(results: Any) -> dict[tuple[str, str], float]:
    return {
        (name, key.removesuffix(",none")): value
        for name, entries in results["results"].items()
        for key, value in entries.items()
        if "," in key and "_stderr" not in key
    }


def _scores(results: Any) -> dict[tuple[str, str], float]:
    from harness.bridge.score import per_sample

    return {
        (f"{name}/{entry['doc_id']}", f"{metric},{entry['filter']}".removesuffix(",none")): value
        for name, entries in results["samples"].items()
        for entry in entries
        for metric in entry["metrics"]
        if (value := per_sample(entry[metric])) is not None
    }


def _rows(home: Path, columns: str, table: str) -> list[tuple[Any, ...]]:
    return store.query(home, f"SELECT {columns} FROM {table} ORDER BY ALL")[1]


@pytest.mark.slow
def test_a_run_keeps_prompts_answers_and_lm_evals_versions(finished: tuple[Path, Run]) -> None:
    home, run = finished
    assert (run.task, run.n_samples, run.limit_n) == ("lm_eval/small", 9, None)
    parts = run.protocol_parts
    assert (parts["lm_eval_task_version"], parts["shots"]) == (2.0, 0)
    assert parts["lm_eval"]
    columns = "sample_id, group_name, prompt, target, parsed, len(choice_logprobs)"
    rows = {row[0]: row[1:] for row in _rows(home, columns, "samples")}
    assert rows["small_choice/1"] == ("small_choice", "Two and two are", "four apples", True, 4)
    assert rows["small_text/2"][1] == "Water is wet, or a kind of stone, dry?"
    assert rows["small_writing/0"][0:3] == (
        "small_writing",
        "Question: The sky is\nAnswer:",
        "blue today",
    )
    lines = list(runs.read_requests(runs.folder_of(home, run.run_id)))
    kinds = [line["kind"] for line in lines if line["id"].startswith("small_choice/0")]
    assert kinds == ["choose", "choose"], "with and without the question, for mutual information"


@pytest.mark.slow
def test_an_interrupted_run_is_graded_when_it_is_resumed(finished: tuple[Path, Run]) -> None:
    home, run = finished
    folder = runs.folder_of(home, run.run_id)
    before = (folder / runs.MEASURES).read_text()
    (folder / runs.MEASURES).unlink()
    runs.write_manifest(home, _interrupted(run))
    again = resume(run.run_id, home)
    assert again.status == "done", again.error
    assert again.outputs_sha256 == run.outputs_sha256
    assert (folder / runs.MEASURES).read_text() == before


def _interrupted(run: Run) -> Run:
    from dataclasses import replace

    return replace(run, status="interrupted", cause="killed")


@pytest.mark.slow
def test_answers_to_other_questions_are_not_graded(
    finished: tuple[Path, Run], tmp_path: Path
) -> None:
    """As after an update of lm-eval or of the data between asking and grading."""
    home, run = finished
    folder = Path(shutil.copytree(runs.folder_of(home, run.run_id), tmp_path / "run"))
    asked_before = (folder / runs.REQUESTS).read_text().replace("The sky is", "The sea is")
    (folder / runs.REQUESTS).write_text(asked_before)
    with pytest.raises(StoreError, match="`small_choice/0` is no longer what was asked"):
        score_lm_eval(folder, registry.task(run.task))


def test_unknown_names_lists_and_code_are_refused(include: Path, manager: Any) -> None:
    from harness.bridge.build import build

    with pytest.raises(UsageError, match="lm-eval has no task `arc_eazy`") as unknown:
        build(Job(name="arc_eazy"), manager)
    assert unknown.value.hint == "did you mean `arc_easy`?"
    with pytest.raises(UsageError, match="`lm_eval/loose` is a list of 3 tasks") as loose:
        build(Job(name="loose"), manager)
    assert loose.value.hint == (
        "--tasks lm_eval/small_choice,lm_eval/small_text,lm_eval/small_writing"
    )


def test_continuations_of_one_context_are_one_request() -> None:
    instances = [
        _instance("loglikelihood", ("The sky is", " blue"), 0),
        _instance("loglikelihood", ("The sky is", " tin"), 1),
        _instance("loglikelihood", ("", " blue"), 2),
        _instance("loglikelihood_rolling", ("A text.",), 3),
    ]
    found = list(asked(instances))
    assert [one.request for one in found] == [
        Request(id="t/7", kind="choose", prompt="The sky is", choices=(" blue", " tin")),
        Request(id="t/7/1", kind="loglikelihood", prompt="", choices=(" blue",)),
        Request(id="t/7/2", kind="rolling", prompt="A text."),
    ]
    scored = Completion(
        request_id="t/7",
        finish_reason="scored",
        prompt_tokens=3,
        choice_logprobs=(-1.5, -9.0),
        choice_greedy=(True, False),
    )
    answers = {id(instance): answer for instance, answer in found[0].answers([scored])}
    assert answers == {id(instances[0]): [(-1.5, True)], id(instances[1]): [(-9.0, False)]}


@pytest.mark.parametrize(
    ("settings", "repeats", "expected"),
    [
        ({"until": ["\n"], "max_gen_toks": 8}, 1, SamplingParams(max_tokens=8, stop=("\n",))),
        ({"until": "Q:", "do_sample": False, "temperature": 0.7}, 4, SamplingParams(stop=("Q:",))),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_tokens": 9},
            4,
            SamplingParams(temperature=0.7, top_p=0.9, max_tokens=9, n=4, seed=3),
        ),
    ],
)
def test_generation_settings_are_ours(
    settings: dict[str, Any], repeats: int, expected: SamplingParams
) -> None:
    (one,) = asked([_instance("generate_until", ("Q", settings), 0, repeats)], seed=3)
    assert one.request.sampling == expected
    texts = [
        Completion(request_id="t/7", text="a", finish_reason="stop", prompt_tokens=1)
        for _ in range(expected.n)
    ]
    assert [answer for _, answer in one.answers(texts)] == [["a"] * repeats]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("generate_until", ("Q", {"num_beams": 10}), "`num_beams`"),
        ("generate_until", ("Q", {"repetition_penalty": 1.1}), "`repetition_penalty`"),
        ("generate_until_multi_round", ("Q", {}), "type `generate_until_multi_round`"),
        ("generate_until", (marked([]) + "Answer:", {}), "text of its own around a conversation"),
    ],
)
def test_what_engines_cannot_honour_is_refused(
    kind: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        list(asked([_instance(kind, arguments, 0)]))


def test_conversations_become_messages() -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi\n"}]
    (one,) = asked([_instance("generate_until", (marked(turns), {}), 0)])
    assert one.request.prompt == (
        Message(role="system", content="Be short."),
        Message(role="user", content="Hi\n"),
    )


def _instance(kind: str, arguments: tuple[Any, ...], idx: int, repeats: int = 1) -> Any:
    return Instance(kind, {}, arguments, idx, metadata=("t", 7, repeats))


def test_names_need_no_lm_eval_to_be_looked_up() -> None:
    (task,) = registry.tasks("lm_eval/mmlu_anatomy")
    assert (task.id, task.version) == ("lm_eval/mmlu_anatomy", 1)
    with pytest.raises(UsageError, match="rendered by lm-eval"):
        questions(task)
    with pytest.raises(UsageError, match="names no task of lm-eval"):
        registry.task("lm_eval/")


def test_without_lm_eval_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError) as caught:
        require_lm_eval()
    assert caught.value.hint == "pip install 'tunebench[lm-eval]'"


@pytest.mark.parametrize("options", [Options(samples=4, temperature=1.0), Options(shots=-1)])
def test_options_that_lm_eval_cannot_honour_are_refused(options: Options, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--samples 4|--shots -1"):
        evaluate("Tiny/base", "lm_eval/mmlu_anatomy", options, home=tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_our_mmlu_asks_what_lm_eval_asks(data_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    task = registry.task("lm_eval/mmlu_anatomy")
    plan = plan_lm_eval(task, path, data_root=data_root, shots=5, limit=20)
    theirs = [json.loads(line) for line in path.read_text().splitlines()]
    mmlu = questions(registry.task("mmlu"), data_root=data_root)
    ours = [
        {**to_json(request), "sample": {"target": sample.target, "group": ""}}
        for sample, request in zip(mmlu.samples, mmlu.requests(), strict=True)
        if sample.group == "anatomy"
    ]
    assert plan.n_samples == 20
    assert [_asked(line) for line in theirs] == [_asked(line) for line in ours[:20]]


def _asked(line: dict[str, Any]) -> tuple[str, list[str], str]:
    return line["prompt"], list(line["choices"]), line["sample"]["target"]
