"""Options that several commands take, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Format = Annotated[str, typer.Option("--format", "-f", help="table, md, csv, json, html or latex.")]
Home = Annotated[
    Path | None, typer.Option(envvar="BENCH_HOME", help="Where runs and history are kept.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="BENCH_DATA_ROOT", help="Folder with datasets, laid out like the hub."),
]
Engine = Annotated[str, typer.Option(help="auto, hf, vllm, openai, ray or mock.")]
OwnEngine = Annotated[str, typer.Option(help="auto, hf, vllm or mock.")]
Limit = Annotated[int | None, typer.Option(help="Ask only N questions; never on the leaderboard.")]
Shots = Annotated[int | None, typer.Option(help="Solved examples before each question.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer.")]
Seed = Annotated[int | None, typer.Option(help="Of example draws and of sampling.")]
Chat = Annotated[bool, typer.Option("--chat", help="Ask in the model's chat template.")]
Judge = Annotated[
    str | None,
    typer.Option(help="Who grades judged tasks: a model, or a YAML file (tasks/judges/)."),
]
Offline = Annotated[
    bool, typer.Option("--offline-sample", help="Ask the few questions that ship with each task.")
]
EngineSettings = Annotated[
    list[str] | None, typer.Option("--engine-set", help="Engine setting KEY=VALUE.")
]
Prompts = Annotated[
    str | None,
    typer.Option(help="`aqi`: own prompts, a file or ID[:CONFIG]:SPLIT (input, safety_label)."),
]
Layers = Annotated[
    str | None, typer.Option(help="`aqi`: whose outputs are taken: -1, 20,24 or -5:-1.")
]
Pooling = Annotated[str | None, typer.Option(help="`aqi`: mean or last (token).")]
Reduction = Annotated[str | None, typer.Option(help="`aqi`: none, pca, tsne or umap.")]
