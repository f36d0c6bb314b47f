"""The graders of competition mathematics: their rules as rows, and what must not harm them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import scorers
from harness.errors import BenchError
from harness.rows import read_rows
from harness.scorers import drgrpo, grade, last_boxed, math_pool, minerva, qwen
from harness.scorers.equivalence import decide
from harness.scorers.extraction import boxed_answer, final_answer
from harness.scorers.math import compare_all
from harness.types import JSON

CASES = Path(__file__).parent / "cases"
SENTENCE = "Final Answer: The final answer is ${}$. I hope it is correct."


def rows(name: str) -> list[dict[str, object]]:
    lines = (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("row", rows("math"), ids=str)
def test_math_decides_as_the_row_says(row: dict[str, str]) -> None:
    assert bool(grade("math", row["output"], row["target"]).value) is row["equal"]


@pytest.mark.parametrize("name", ["qwen", "minerva"])
def test_published_graders_decide_as_their_rows_say(name: str) -> None:
    wrong = [
        row
        for row in rows(name)
        if bool(grade(name, str(row["output"]), str(row["target"])).value) is not row["equal"]
    ]
    assert wrong == []


@pytest.mark.parametrize("speed", ["fast", "slow"])
def test_drgrpo_keeps_its_golden_table_with_its_false_positives(speed: str) -> None:
    wrong = [
        row
        for row in rows("drgrpo")
        if bool(grade(f"drgrpo_{speed}", str(row["output"]), str(row["target"])).value)
        is not row[speed]
    ]
    assert wrong == []


def test_strict_grader_has_none_of_the_false_positives_of_drgrpo() -> None:
    for answer, gold in (("x + h", "x + t"), ("t^2", "h^2")):
        assert drgrpo.compare(answer, gold, slow=False).equal
        assert decide(answer, gold) is False


def test_graders_say_what_they_read_and_none_where_nothing_can_be_read() -> None:
    assert grade("math", "so $\\boxed{3}$", "4").answer == "3"
    assert grade("math", "I give up", "4").answer is None
    assert grade("minerva", "\\boxed{4}", "4").answer is None
    assert grade("drgrpo_fast", "\\boxed 4", "4").answer is None
    assert grade("qwen", "I give up", "4").answer is None


def test_names_versions_and_metrics_are_those_of_the_protocols() -> None:
    metrics = {name: scorers.GRADERS[name].metric for name in ("math", "minerva", "math_verify")}
    assert metrics == {"math": "acc", "minerva": "exact_match", "math_verify": "math_verify"}


HOSTILE = (
    *("9^9^9^9", "9**9**9**9", "100000!", "99999!!", "10^{99999}", "\\binom{99999}{50000}"),
    *("__import__('os').system('touch {}')", "().__class__.__bases__[0]", "exec('1')"),
    *("{" * 5_000 + "}" * 5_000, "(" * 3_000, "\\frac{1}{2", "}" * 100, "\\boxed{" * 50_000),
    *("x" * 1_000_000, "1" * 1_000_000, "$" * 1_000_000, "1," * 300_000, " " * 1_000_000),
    *("Final Answer: The final answer is " * 30_000, "answer is " * 100_000, "\x00\x01", "²"),
    *("(x+1)^{200}(y+z)^{200}", "(a+b+c+d)^{99}", "((((9^9)^9)^9)^9)^9", "1e999999999"),
)


@pytest.mark.parametrize(
    "name",
    ["math", "math_verify", "minerva", "qwen", "drgrpo_fast", "drgrpo_slow"],
)
def test_hostile_output_ends_as_not_equal_within_the_limit(name: str, tmp_path: Path) -> None:
    grade(name, SENTENCE.format("\\boxed{\\sin x}"), "\\cos x")  # the worker is there now
    trap = tmp_path / "trap"
    for text in HOSTILE:
        hostile = text.replace("touch {}", f"touch {trap}")
        output = SENTENCE.format(hostile if name == "minerva" else f"\\boxed{{{hostile}}}")
        start = time.monotonic()
        assert grade(name, output, "7").value == 0.0, text[:40]
        # On a free machine below 1 s; tests share their cores.
        assert time.monotonic() - start < 5.0, text[:40]
    assert not trap.exists()


def test_a_verdict_past_its_time_says_so_and_the_next_one_is_right() -> None:
    slow = math_pool.verdict("math", "\\int_0^1 x^{x^{x^x}} dx", "\\int_0^2 y^{y^{y^y}} dy")
    assert slow in (math_pool.Verdict(False, "time limit"), math_pool.Verdict(False))
    assert math_pool.verdict("math", "\\sin^2 x + \\cos^2 x", "1") == math_pool.Verdict(True)


def test_verdicts_are_right_from_many_threads() -> None:
    pairs = [(f"\\ln 4 + {n}", f"2 \\ln 2 + {n + n % 2}") for n in range(24)]
    found = [verdict.equal for verdict in compare_all(pairs)]
    assert found == [n % 2 == 0 for n in range(24)]


def test_a_verdict_is_asked_for_once() -> None:
    math_pool.verdict("math", "\\tan x \\cos x", "\\sin x")
    before = math_pool.verdict.cache_info().hits
    math_pool.verdict("math", "\\tan x \\cos x", "\\sin x")
    assert math_pool.verdict.cache_info().hits == before + 1


def test_sympy_stays_out_of_the_process_that_grades() -> None:
    program = (
        "import sys; from harness.scorers import grade; "
        "print(grade('math', '\\\\boxed{\\\\ln 4}', '2 \\\\ln 2').value, 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["1.0", "False"], done.stderr


def test_without_sympy_the_install_line_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sympy.py").write_text("raise ImportError('No module named sympy')")
    math_pool.stop_workers()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(BenchError) as failure:
        math_pool.verdict("math", "\\sin x + 17", "\\cos x")
    assert failure.value.hint == "`pip install 'tunebench[math]'`"
    assert "No module named sympy" in failure.value.message


def test_a_worker_starts_with_the_first_answer_and_before_a_rule_is_asked() -> None:
    math_pool.stop_workers()
    assert grade("math", "\\boxed{5}", "5").value == 1
    (worker,) = math_pool._idle["math"]
    assert (worker.process.poll(), worker.child) == (None, 0)
    assert grade("math", "\\boxed{\\sin 2x}", "2 \\sin x \\cos x").value == 1
    assert [one.process.pid for one in math_pool._idle["math"]] == [worker.process.pid]
    assert list(math_pool._idle) == ["math"]


def test_starting_a_worker_is_not_charged_to_the_first_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    math_pool.stop_workers()
    # As if it took all of the time that a verdict may: only waiting for the start is not counted.
    limits: list[float] = []
    reply = math_pool._Worker._reply

    def noted(self: math_pool._Worker, deadline: float) -> JSON | None:
        limits.append(deadline - time.monotonic())
        return reply(self, deadline)

    monkeypatch.setattr(math_pool._Worker, "_reply", noted)
    assert math_pool.verdict("math", "\\cos 2x + 41", "2\\cos^2 x + 40").equal
    assert limits[0] > 50 > limits[1]


def test_workers_end_with_their_parent() -> None:
    program = (
        "from harness.scorers import math_pool as p; p.verdict('math', '\\\\sin x', '\\\\cos x'); "
        "import os, signal; w = p._idle['math'][0]; print(w.process.pid, w.child, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    deadline = time.monotonic() + 10
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_joined_boxes_are_one_answer_and_parted_ones_are_not() -> None:
    assert boxed_answer("$\\boxed{1}$, $\\boxed{2}$ and $\\boxed{3}$") == "1,2,3"
    assert boxed_answer("\\boxed{1} is what we get at first; then \\boxed{2}") == "2"
    assert final_answer("\\boxed{} so the answer is 5.") == "5"


def test_qwen_equality_knows_percentages_and_tolerance() -> None:
    pairs = {("73.007", "73"): True, ("73.008", "73"): False, ("7300", "73"): True}
    assert {pair: qwen.compare(*pair).equal for pair in pairs} == pairs


def test_qwen_units_keeps_what_qwen_takes_for_a_unit() -> None:
    assert grade("qwen", "\\boxed{5 m}", "5").value == 1.0
    assert grade("qwen_units", "\\boxed{5 m}", "5").answer == "5m"


@pytest.mark.data
def test_every_gold_of_math_equals_itself_and_hardly_any_other(data_root: Path) -> None:
    golds = math_golds(data_root)
    assert [gold for gold in golds if grade("math", f"\\boxed{{{gold}}}", gold).value != 1.0] == []
    generator = random.Random(0)
    pairs = [(generator.choice(golds), gold) for gold in golds]
    equal = {pair for pair in pairs if decide(*pair) and pair[0] != pair[1]}
    assert all(decide(other, gold) for gold, other in equal)  # whichever side is the gold one


@pytest.mark.data
def test_minerva_is_lm_evals_on_golds_and_broken_golds(data_root: Path) -> None:
    reference = pytest.importorskip("lm_eval.tasks.minerva_math.utils")
    generator = random.Random(1)
    golds = generator.sample(math_golds(data_root), 30)
    for gold in golds:
        broken = gold.replace("1", "2", 1).replace("\\frac", "\\dfrac")
        for answer in (gold, broken, f"x = {gold}"):
            output = generator.choice((SENTENCE, SENTENCE, "{}", SENTENCE + "\n")).format(answer)
            expected = reference.normalize_final_answer(gold)
            given = reference.normalize_final_answer(reference.get_unnormalized_answer(output))
            equal = bool(reference.is_equiv(given, expected))
            assert minerva.normalised(gold) == expected
            assert bool(grade("minerva", output, gold).value) is equal, (output, gold)


def math_golds(data_root: Path) -> list[str]:
    path = data_root / "HuggingFaceH4" / "MATH-500" / "data"
    solutions = [row["solution"] for file in sorted(path.iterdir()) for row in read_rows(file)]
    return [answer for solution in solutions if (answer := last_boxed(solution)) is not None]
