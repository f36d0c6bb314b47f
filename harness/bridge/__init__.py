"""Tasks of lm-evaluation-harness on our engines.

lm-eval renders the requests in one process (`plan`), our engines answer them as any others, and
lm-eval grades the answers in another process (`score`): it is run twice, first with a model that
takes the requests, then with one that has the answers. The process of the command line imports
neither lm-eval nor datasets: it uses `planning` and `scoring`.
"""
