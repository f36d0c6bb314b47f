"""Names that stand for several tasks: suites by subject, then what each reference project reports.

`dsteer`: the D-STEER experiment with what steering costs beside it. `asft_…`: SFT, DFT and ASFT on
medicine and mathematics. `cs336_…`: supervised fine-tuning by the CS336 course, for instructions
and for reasoning. `optuna_math`: the search over its settings.
`ppo_gsm8k`: PPO on GSM8K; the project read 50 questions of its own training file, which is not
repeated here.
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "math_suite": ("gsm8k", "math", "minerva_ocw", "olympiadbench", "aime24", "aime25", "amc23"),
    "medical": ("medqa", "medmcqa", "mmlu:medical"),
    "instruct": ("gsm8k:boxed", "mmlu:generative", "math:qwen", "alpaca_eval"),
    "dsteer": ("aqi", "simple_safety_tests:heuristic", "xstest:heuristic"),
    "safety": ("simple_safety_tests", "xstest"),
    "asft_medical": ("medqa:asft", "mmlu:medical", "medmcqa:asft"),
    "asft_math": ("math:qwen", "minerva_ocw", "olympiadbench", "aime24", "amc23"),
    "cs336_instruct": (
        "gsm8k:cs336",
        "mmlu:cs336",
        "alpaca_eval:cs336",
        "simple_safety_tests:cs336",
    ),
    "cs336_reason": ("hendrycks_math:r1_zero",),
    "optuna_math": ("hendrycks_math:r1_zero",),
    "ppo_gsm8k": ("gsm8k", "gsm8k:boxed"),
}
