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
Prompts = Annotated[
    str | None,
    typer.Option(help="`aqi`: own prompts, a file or ID[:CONFIG]:SPLIT (input, safety_label)."),
]
Layers = Annotated[
    str | None, typer.Option(help="`aqi`: whose outputs are taken: -1, 20,24 or -5:-1.")
]
Pooling = Annotated[str | None, typer.Option(help="`aqi`: mean or last (token).")]
Reduction = Annotated[str | None, typer.Option(help="`aqi`: none, pca, tsne or umap.")]
