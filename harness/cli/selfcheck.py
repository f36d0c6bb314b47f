"""`bench selfcheck`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import output
from harness.cli.evaluate import Fresh, Models, Settings, key_values, watched
from harness.cli.options import AsJSON, DataRoot, Home, Offline

Tasks = Annotated[str, typer.Option("--tasks", "-t", help="Tasks that choose or decode greedily.")]
Limit = Annotated[int, typer.Option(help="Questions of each task.")]
Engine = Annotated[str, typer.Option(help="The engine to compare with `hf`.")]


def selfcheck(
    model: Models,
    tasks: Tasks = "mmlu,gsm8k",
    limit: Limit = 50,
    engine: Engine = "vllm",
    fresh: Fresh = False,
    offline_sample: Offline = False,
    settings: Settings = None,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """Ask two engines the same questions: how far are their answers apart? Kept in the history."""
    from harness.evaluate import Options
    from harness.selfcheck import lines
    from harness.selfcheck import selfcheck as compare

    options = Options(
        limit=limit,
        fresh=fresh,
        offline_sample=offline_sample,
        settings=key_values(settings or ()),
        data_root=data_root,
        home=home,
    )
    with watched() as progress:
        found = compare(model, tasks, options, engine=engine, listener=progress)
    if as_json:
        output.print_json([parity.to_json() for parity in found])
    else:
        print("\n".join(lines(found)))
