from __future__ import annotations

import random

import pytest

from harness.engines.trie import (
    CACHED_EDGE,
    Forward,
    SortedPaths,
    lay_out,
    pack,
    plan,
    shared_tokens,
    size,
    unpack,
)


def random_rows(seed: int) -> SortedPaths:
    draw = random.Random(seed)
    stems = [[draw.randrange(3) for _ in range(draw.randrange(1, 90))] for _ in range(5)]
    rows = []
    for _ in range(draw.randrange(1, 60)):
        stem = draw.choice(stems)
        tail = [draw.randrange(4) for _ in range(draw.randrange(20))]
        rows.append(pack(stem[: draw.randrange(1, len(stem) + 1)] + tail))
    return SortedPaths.of(rows)


def test_shared_tokens_counts_whole_tokens_only() -> None:
    # 1 and 257 have their first byte in common.
    assert shared_tokens(pack([5, 1]), pack([5, 257])) == 1
    assert shared_tokens(pack([]), pack([1])) == 0
    assert shared_tokens(pack([1, 2]), pack([1, 2])) == 2


def test_no_rows_need_no_forwards() -> None:
    rows = SortedPaths.of([])
    assert rows.count_nodes() == 0
    assert list(plan(rows, 64)) == []


@pytest.mark.parametrize("seed", range(40))
def test_count_of_nodes_is_that_of_distinct_prefixes(seed: int) -> None:
    rows = random_rows(seed)
    prefixes = {path[: 4 * n] for path in rows.paths for n in range(1, size(path) + 1)}
    assert rows.count_nodes() == len(prefixes)


def run_plan(rows: SortedPaths, chunk_tokens: int) -> tuple[dict[int, list[int]], int]:
    """Depths read by each row, and tokens computed; checks each forward against the rows."""
    cache: list[int] = []
    depths_read: dict[int, list[int]] = {row: [] for row in range(len(rows.paths))}
    computed = 0
    for forward in plan(rows, chunk_tokens):
        layout = lay_out(forward, rows)
        ids = unpack(layout.ids)
        assert len(ids) == len(layout.depths) == len(layout.exits) <= chunk_tokens
        assert forward.base <= len(cache)
        cache = cache[: forward.base]
        computed += len(ids)
        check_branches(forward, rows, cache, ids)
        for part, places in zip(forward.parts, layout.places, strict=True):
            for place_number, place in enumerate(places):
                seen = [j for j in range(len(ids)) if j <= place < layout.exits[j]]
                assert seen == list(places[: place_number + 1])
                assert layout.depths[place] == forward.base + place_number
            for row in part.readers:
                depths_read[row] += range(forward.base, part.stop)
        cache += ids
    return depths_read, computed


def check_branches(forward: Forward, rows: SortedPaths, cache: list[int], ids: list[int]) -> None:
    for part, places in zip(forward.parts, lay_out(forward, rows).places, strict=True):
        for row in part.readers:
            expected = unpack(rows.paths[row])[: part.stop]
            assert cache + [ids[place] for place in places] == expected


@pytest.mark.parametrize("chunk_tokens", [32, 50, 128, 4096])
@pytest.mark.parametrize("seed", range(25))
def test_every_token_of_every_row_is_computed_after_exactly_its_own_prefix(
    seed: int, chunk_tokens: int
) -> None:
    rows = random_rows(seed)
    depths_read, _ = run_plan(rows, chunk_tokens)
    assert depths_read == {row: list(range(size(path))) for row, path in enumerate(rows.paths)}


def test_one_large_forward_computes_each_distinct_token_once() -> None:
    rows = random_rows(3)
    assert run_plan(rows, 10**6)[1] == rows.count_nodes()


def test_long_shared_prefixes_are_computed_once_and_short_ones_at_little_cost() -> None:
    draw = random.Random(0)
    subjects = [[draw.randrange(1000) for _ in range(300)] for _ in range(5)]
    rows = SortedPaths.of(
        pack([7, *subject, *(draw.randrange(1000) for _ in range(50))])
        for subject in subjects
        for _ in range(80)
    )
    _, computed = run_plan(rows, 512)
    assert computed <= 1.01 * rows.count_nodes()


def test_a_row_longer_than_a_chunk_is_computed_piece_by_piece() -> None:
    rows = SortedPaths.of([pack(range(1000))])
    assert [(f.base, f.parts[0].stop) for f in plan(rows, 400)] == [
        (0, 400),
        (400, 800),
        (800, 1000),
    ]


def test_edges_too_short_to_cache_are_repeated() -> None:
    short = list(range(CACHED_EDGE - 1))
    rows = SortedPaths.of(pack([*short, 100 + n, *range(40)]) for n in range(3))
    forwards = list(plan(rows, 64))
    assert [f.base for f in forwards] == [0, 0, 0]
