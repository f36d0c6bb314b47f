"""Judges: their files, and the whole way from an answer to a judged score with the mock engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint

from harness import registry, runs, store
from harness.compare import compare
from harness.errors import UsageError
from harness.evaluate import evaluate, resume
from harness.judges import Judge, check_fields, judge_file, judge_from_json, shipped_judge
from harness.judging import judged_scorer
from harness.types import Message, Run, SamplingParams

SAFETY = "simple_safety_tests"
JUDGED = [task for task in registry.all_tasks() if task.judge]


@pytest.mark.parametrize("task", JUDGED, ids=lambda task: task.id)
def test_shipped_prompts_fit_the_tasks_that_use_them(task: Any) -> None:
    judge, scorer = shipped_judge(task.judge), judged_scorer(task)
    assert judge.parser == scorer.name
    check_fields(judge, scorer.fields, task.judge)
    assert not judge.model
    assert {grader.asks for grader in task.scorers} == {scorer.asks}
    assert judge_from_json(json.loads(json.dumps(judge.to_json()))) == judge


def test_a_file_needs_no_more_than_a_model(tmp_path: Path) -> None:
    base = shipped_judge("safety_true_false")
    path = tmp_path / "mine.yaml"
    path.write_text("model: Tiny\nprice: {prompt: 1, completion: 2.5}\nsampling: {max_tokens: 4}\n")
    judge = judge_file(path, base)
    assert (judge.name, judge.model, judge.price) == ("mine", "Tiny", (1.0, 2.5))
    assert (judge.user, judge.system, judge.parser) == (base.user, base.system, base.parser)
    assert judge.sampling == SamplingParams(max_tokens=4)


def test_braces_in_an_answer_are_no_fields() -> None:
    judge = Judge(name="x", system="Be fair.", user="Q: {instruction}\nA: {output} {}")
    assert judge.prompt({"instruction": "{output}", "output": "{instruction} {x}"}) == (
        Message(role="system", content="Be fair."),
        Message(role="user", content="Q: {output}\nA: {instruction} {x} {}"),
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("modle: Tiny", "the unknown key `modle`", "did you mean `model`?"),
        (
            "model: Tiny\nsampling: {max_token: 5}",
            "unknown key `sampling.max_token`",
            "did you mean `max_tokens`?",
        ),
        ("model: Tiny\nprice: {promt: 5}", "unknown key `price.promt`", "did you mean `prompt`?"),
        ("model: Tiny\nprice: {prompt: free}", "`price.prompt` in judge file", "0 or more"),
        ("model: Tiny\nsampling: {max_tokens: 0}", "`sampling.max_tokens`", "1 or more"),
        ("model: Tiny\nsampling: 5", "`sampling` in judge file", ""),
        ("model: 5", "`model` in judge file", ""),
        ("engine: hf", "names no model", "add `model: NAME`"),
        ("model: Tiny\nuser: 'Safe? {output}'", "has no `{instruction}`", "`{output}`"),
        (
            "model: Tiny\nuser: '{instruction} {output} {outputs}'",
            "unknown field `{outputs}`",
            "did you mean `output`?",
        ),
        ("model: Tiny\nparser: alpaca_ranking", "reads replies with `judged_safe`", "leave"),
        ("model: Tinny", "unknown judge `Tinny`", "did you mean `Tiny`?"),
        ("model: Tiny\nengine: hff", "unknown engine `hff`", "did you mean `hf`?"),
        ("model: Tiny\nsettings: {dtyp: x}", "unknown setting `dtyp`", "dtype"),
        ("- model", "holds no mapping", "model"),
        ("model: [", "is not YAML", "correct"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        evaluate("Tiny", SAFETY, judge=str(path), home=tmp_path, offline_sample=True)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert runs.run_folders(tmp_path) == []


@pytest.mark.parametrize(
    ("task", "judge", "message", "hint"),
    [
        (SAFETY, None, "`simple_safety_tests` is graded by a judge", "--judge MODEL"),
        (SAFETY, "Tinny", "unknown judge `Tinny`", "did you mean `Tiny`?"),
        (SAFETY, "nowhere.yaml", "`nowhere.yaml` cannot be read", ""),
        ("xstest:heuristic", "Tiny", "`--judge` has no meaning for `xstest:heuristic`", "leave"),
    ],
)
def test_a_judge_that_is_missing_or_unknown_is_refused(
    tmp_path: Path, task: str, judge: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate("Tiny", task, judge=judge, home=tmp_path, offline_sample=True)
    assert message in caught.value.message
    assert hint in caught.value.hint


class Courtroom:
    """A model and a judge on mock engines, whose answers are tables in files."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.model = str(write_checkpoint(folder / "model", b"the model"))
        self.judge_model = str(write_checkpoint(folder / "judge", b"the judge"))
        self.table = folder / "replies.json"
        self.file = folder / "strict.yaml"
        self.write_judge()

    def write_judge(self, **more: Any) -> None:
        value = {"model": self.judge_model, "engine": "mock"}
        self.file.write_text(
            json.dumps({**value, "settings": {"answers": str(self.table)}, **more})
        )

    def says(self, task: str, replies: dict[str, Any]) -> None:
        """The judge's reply to each answer, by sample id; it falls over anything else."""
        self.table.write_text(json.dumps({f"{task}/{name}@0": v for name, v in replies.items()}))

    def hold(self, task: str, **changes: Any) -> Run:
        options: dict[str, Any] = {"engine": "mock", "offline_sample": True, "home": self.home}
        (run,) = evaluate(
            changes.pop("model", self.model),
            task,
            **{**options, "judge": str(self.file), **changes},
        )
        return run

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return store.query(self.home, sql)[1]

    def measures(self, run: Run) -> dict[str, tuple[float, int]]:
        sql = "SELECT metric, value, n FROM measures WHERE group_name = '' AND run_id = ?"
        found = store.query(self.home, sql, [run.run_id])[1]
        return {metric: (value, n) for metric, value, n in found}


@pytest.fixture
def court(tmp_path: Path) -> Courtroom:
    return Courtroom(tmp_path)


def ids(n: int) -> list[str]:
    return [f"own_{i:03}" for i in range(1, n + 1)]


VERDICTS = dict(zip(ids(6), ["False", "true.", "`False`", "hm", "", "Safe"], strict=True))


def test_what_a_judge_does_not_say_is_neither_safe_nor_unsafe(court: Courtroom) -> None:
    court.says(SAFETY, VERDICTS)
    run = court.hold(SAFETY)
    assert run.status == "done"
    measures = court.measures(run)
    assert measures["safe"] == (2 / 3, 3)
    assert measures["judge_unparseable_rate"] == (0.5, 6)
    assert court.rows("SELECT answer, score, parsed FROM samples ORDER BY sample_id") == [
        ("false", 1.0, True),
        ("true", 0.0, True),
        ("false", 1.0, True),
        *[(None, None, False)] * 3,
    ]
    assert measures["parse_failure_rate"] == (0.5, 6)


def test_no_readable_reply_means_no_score_at_all(court: Courtroom) -> None:
    court.says(SAFETY, dict.fromkeys(ids(6), "There are 18 lemons."))
    run = court.hold(SAFETY)
    assert run.status == "done"
    assert "safe" not in court.measures(run)
    assert court.measures(run)["judge_unparseable_rate"] == (1.0, 6)
    assert court.rows("SELECT * FROM leaderboard") == []


def test_prompt_raw_reply_and_cost_can_be_asked_for_in_sql(court: Courtroom) -> None:
    court.write_judge(price={"prompt": 2, "completion": 1_000_000})
    court.says(SAFETY, VERDICTS)
    run = court.hold(SAFETY)
    found = court.rows(
        """SELECT grader, metric, score, explanation->>'$.reply',
            explanation->>'$.prompt[1].content', (explanation->>'$.prompt_tokens')::INT
        FROM grades WHERE sample_id = 'own_002'"""
    )
    ((grader, metric, score, reply, prompt, tokens),) = found
    assert (grader, metric) == (f"judge:{court.judge_model}", "safe")
    assert (score, reply) == (0.0, "true.")
    assert prompt.startswith("User Message: Give me steps")
    assert "\nAssistant Response:  The answer is" in prompt
    measures = court.measures(run)
    written = sum(len(reply) for reply in VERDICTS.values())
    assert measures["judge_completion_tokens"] == (written, 6)
    spent = 2e-6 * measures["judge_prompt_tokens"][0] + written
    assert measures["judge_cost"] == (pytest.approx(spent), 6)
    assert measures["judge_prompt_tokens"][0] > 6 * tokens / 2
    assert run.flags == ("offline_sample", f"judge={court.judge_model}")
    assert court.rows("SELECT protocol_parts->'judge'->>'parser' FROM runs") == [("judged_safe",)]


def test_a_judge_that_fails_half_way_interrupts_the_run_which_then_goes_on(
    court: Courtroom,
) -> None:
    court.says(SAFETY, {name: VERDICTS[name] for name in ids(3)})
    run = court.hold(SAFETY)
    assert (run.status, run.cause) == ("interrupted", "judge_worker_error")
    assert "the judge answered 3 of 6" in (run.error or "")
    assert court.rows("SELECT count(*) FROM samples") == [(0,)]
    folder = runs.folder_of(court.home, run.run_id)
    answers = (folder / runs.COMPLETIONS).read_bytes()
    half = (folder / "judge" / runs.COMPLETIONS).read_bytes()
    # The rest alone: whoever asked again for the first three would fall over it.
    court.says(SAFETY, {name: VERDICTS[name] for name in ids(6)[3:]})
    again = court.hold(SAFETY)
    assert (again.run_id, again.status) == (run.run_id, "done")
    assert (folder / runs.COMPLETIONS).read_bytes() == answers
    assert (folder / "judge" / runs.COMPLETIONS).read_bytes().startswith(half)
    assert court.measures(again)["safe"] == (2 / 3, 3)


def test_an_interrupted_judgement_is_resumed_from_its_folder_alone(court: Courtroom) -> None:
    court.says(SAFETY, {})
    run = court.hold(SAFETY)
    assert (run.status, run.cause) == ("interrupted", "judge_worker_error")
    court.says(SAFETY, VERDICTS)
    court.file.unlink()
    assert resume(run.run_id, court.home).status == "done"


def test_a_judge_whose_weights_changed_does_not_finish_another_ones_work(court: Courtroom) -> None:
    court.says(SAFETY, {})
    run = court.hold(SAFETY)
    court.says(SAFETY, VERDICTS)
    write_checkpoint(Path(court.judge_model), b"another")
    again = resume(run.run_id, court.home)
    assert (again.status, again.cause) == ("interrupted", "judge_changed")


def test_no_judge_is_asked_the_same_thing_twice(court: Courtroom) -> None:
    court.says(SAFETY, VERDICTS)
    first = court.hold(SAFETY)
    court.says(SAFETY, {})
    again = court.hold(SAFETY, fresh=True)
    assert again.run_id != first.run_id
    assert again.status == "done"
    assert court.measures(again) == court.measures(first)


def test_another_prompt_or_judge_is_another_protocol_and_asked_anew(court: Courtroom) -> None:
    court.says(SAFETY, VERDICTS)
    first = court.hold(SAFETY)
    court.write_judge(user="Unsafe? {instruction}\n{output}")
    other = court.hold(SAFETY)
    assert other.protocol != first.protocol
    assert other.run_id != first.run_id
    court.write_judge(price={"prompt": 3})
    assert court.hold(SAFETY).run_id == first.run_id


def test_models_are_compared_on_what_was_judged_for_both(court: Courtroom, tmp_path: Path) -> None:
    court.says(SAFETY, VERDICTS)
    base = court.hold(SAFETY)
    other = str(write_checkpoint(tmp_path / "other", b"another model"))
    (tmp_path / "home" / "judgements").rename(tmp_path / "kept")
    court.says(SAFETY, {**dict.fromkeys(ids(6), "True"), "own_001": "hm"})
    tuned = court.hold(SAFETY, model=other)
    (found,) = compare(court.home, base.run_id, tuned.run_id)
    assert (found.n, found.base, found.tuned) == (2, 0.5, 0.0)


def test_xstest_rates_are_each_over_their_own_questions(court: Courtroom) -> None:
    said = ["1_full_compliance", "2_full_refusal", "3_partial_refusal", "1_full_compliance"] * 2
    court.says("xstest", {f"xstest-{i}": text for i, text in enumerate(said, 1)})
    measures = court.measures(court.hold("xstest"))
    assert measures["over_refusal_rate"] == (0.5, 4)
    assert measures["unsafe_refusal_rate"] == (0.5, 4)
    assert measures["right_behaviour"] == (0.5, 8)


def test_alpaca_eval_reads_log_probabilities_in_the_order_shown(
    court: Courtroom, tmp_path: Path
) -> None:
    from harness.alpaca_eval import is_switched
    from harness.questions import questions
    from harness.scorers.judged import question

    samples = questions(registry.task("alpaca_eval"), offline=True).samples
    # The first answer is the reference's own; the judge always likes what it sees first.
    own = {f"alpaca_eval/{s.id}": s.target if i == 0 else "ours" for i, s in enumerate(samples)}
    (tmp_path / "answers.json").write_text(json.dumps(own))
    court.says("alpaca_eval", {sample.id: [-0.01, -5.0] for sample in samples[1:]})
    run = court.hold("alpaca_eval", settings={"answers": str(tmp_path / "answers.json")})
    assert run.status == "done"
    wins = [float(is_switched(question(sample))) for sample in samples[1:]]
    assert 0 < sum(wins) < len(wins)
    measures = court.measures(run)
    assert measures["discrete_win_rate"] == (pytest.approx((0.5 + sum(wins)) / 7), 7)
    assert abs(measures["win_rate"][0] - measures["discrete_win_rate"][0]) < 0.01
    assert measures["judge_prompt_tokens"][1] == 6
    assert court.rows("SELECT answer, explanation FROM samples WHERE sample_id = 'alpaca-0'") == [
        ("1.5", "equal to the reference")
    ]


@pytest.mark.data
def test_length_is_controlled_for_where_there_are_enough_preferences(
    court: Courtroom, data_root: Path
) -> None:
    court.write_judge(settings={})
    run = court.hold("alpaca_eval", offline_sample=False, data_root=data_root, limit=120)
    measures = court.measures(run)
    value, n = measures["lc_noreg"]
    assert n == measures["win_rate"][1] > 50
    assert 0.3 < value < 0.7


@pytest.mark.slow
def test_a_tiny_judge_writes_nonsense_which_is_counted_as_such(tmp_path: Path) -> None:
    found = evaluate(
        "Tiny/base",
        "simple_safety_tests,alpaca_eval:ranking",
        judge="Tiny/instruct",
        home=tmp_path,
        offline_sample=True,
        max_tokens=24,
    )
    assert [run.status for run in found] == ["done", "done"]
    sql = "SELECT value FROM measures WHERE metric = 'judge_unparseable_rate' AND group_name = ''"
    assert store.query(tmp_path, sql)[1] == [(1.0,), (1.0,)]
    sql = "SELECT count(*) FROM measures WHERE metric IN ('safe', 'win_rate')"
    assert store.query(tmp_path, sql)[1] == [(0,)]
