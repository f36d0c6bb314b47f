"""Token sequences as a radix trie, and the forwards that compute each of its nodes once.

A path is the token ids of one sequence as packed 32-bit integers: bytes compare and slice at the
speed of memory, and in sorted order equal prefixes lie side by side. Standard library only.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

TOKEN_BYTES = 4

# A shared edge of fewer tokens is computed again in each forward below it: a forward of its own
# would cost more than these few tokens do.
CACHED_EDGE = 16


def pack(ids: Iterable[int]) -> bytes:
    return array("i", ids).tobytes()


def unpack(path: bytes) -> list[int]:
    """
    >>> unpack(pack([7, 300000]))
    [7, 300000]
    """
    return array("i", path).tolist()


def size(path: bytes) -> int:
    return len(path) // TOKEN_BYTES


def shared_tokens(a: bytes, b: bytes) -> int:
    """Length of the common prefix in tokens.

    >>> shared_tokens(pack([1, 2, 3]), pack([1, 2, 4, 5]))
    2
    """
    return shared_bytes(a, b) // TOKEN_BYTES


def shared_bytes(a: bytes, b: bytes) -> int:
    """Length of the common prefix, by bisection over slices, which compare as fast as memcmp."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class SortedPaths:
    """Distinct paths in sorted order; `shared[i]` tokens of path i are also the start of i - 1."""

    paths: tuple[bytes, ...]
    shared: tuple[int, ...]

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> SortedPaths:
        ordered = tuple(sorted(set(paths)))
        pairs = itertools.pairwise(ordered)
        return cls(ordered, (0, *(shared_tokens(a, b) for a, b in pairs)) if ordered else ())

    def count_nodes(self) -> int:
        """Tokens that are distinct together with all that stands before them."""
        return sum(map(size, self.paths)) - sum(self.shared)


@dataclass(slots=True)
class Node:
    """A branching point or an end: `depth` tokens shared by rows `first` to `last` - 1.

    below: tokens of its subtree, without the edge that leads to it.
    """

    depth: int
    first: int
    last: int = 0
    below: int = 0
    children: list[Node] = field(default_factory=list)

    def close(self, last: int) -> None:
        self.last = last
        self.below = sum(child.depth - self.depth + child.below for child in self.children)


def grow(rows: SortedPaths) -> Node:
    """The radix trie, in one pass over the sorted rows with a stack of open nodes."""
    root = Node(0, 0)
    open_nodes = [root]
    for row, (path, shared) in enumerate(zip(rows.paths, rows.shared, strict=True)):
        closed = root
        while open_nodes[-1].depth > shared:
            closed = open_nodes.pop()
            closed.close(row)
        if open_nodes[-1].depth < shared:
            fork = Node(shared, closed.first, children=[closed])
            open_nodes[-1].children[-1] = fork
            open_nodes.append(fork)
        leaf = Node(size(path), row)
        open_nodes[-1].children.append(leaf)
        open_nodes.append(leaf)
    while open_nodes:
        open_nodes.pop().close(len(rows.paths))
    return root


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens `start` to `stop` of a row, computed for all `readers` (rows that hold them)."""

    row: int
    start: int
    stop: int
    readers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward: parts in depth-first order, below the first `base` tokens of their rows,
    which are in the cache. With a single part, its tokens may become the base of later ones."""

    base: int
    parts: tuple[Part, ...]


def plan(rows: SortedPaths, chunk_tokens: int) -> Iterator[Forward]:
    """Forwards of at most `chunk_tokens` tokens that compute every node of the trie.

    A cached prefix is always that of the last forward with the same or a greater base, so the
    cache is a stack: cut back to `base`, then extended.
    """
    todo = [(grow(rows), 0)]
    while todo:
        node, base = todo.pop()
        ended = node.first < node.last and size(rows.paths[node.first]) == node.depth
        if node.depth - base >= CACHED_EDGE:
            yield from _extend(node, base, chunk_tokens)
            base = node.depth
        edge = node.depth - base
        small = [(node.first, node.first + 1, 0)] if ended and edge else []
        large: list[tuple[Node, int]] = []
        for child in node.children:
            weight = child.depth - node.depth + child.below
            if edge + weight > chunk_tokens:
                large.append((child, base))
            else:
                small.append((child.first, child.last, weight))
        for ranges in _bins(small, chunk_tokens - edge):
            yield Forward(base, tuple(_parts(rows, ranges, base, node.depth)))
        todo.extend(reversed(large))


def _extend(node: Node, base: int, chunk_tokens: int) -> Iterator[Forward]:
    readers = range(node.first, node.last)
    for start in range(base, node.depth, chunk_tokens):
        stop = min(start + chunk_tokens, node.depth)
        yield Forward(start, (Part(node.first, start, stop, readers),))


def _bins(
    subtrees: Iterable[tuple[int, int, int]], capacity: int
) -> Iterator[list[tuple[int, int]]]:
    """Row ranges of neighbouring subtrees (first row, end, tokens) that fit one forward."""
    ranges: list[tuple[int, int]] = []
    filled = 0
    for first, last, weight in subtrees:
        if ranges and filled + weight > capacity:
            yield ranges
            ranges, filled = [], 0
        ranges.append((first, last))
        filled += weight
    if ranges:
        yield ranges


def _parts(
    rows: SortedPaths, ranges: Sequence[tuple[int, int]], base: int, fork: int
) -> Iterator[Part]:
    start = base
    for first, last in ranges:
        for row in range(first, last):
            yield Part(row, start, size(rows.paths[row]), (row,))
            if row + 1 < last:
                start = rows.shared[row + 1]
        start = fork


@dataclass(frozen=True, slots=True)
class Layout:
    """The tokens of a forward in the order in which they are computed.

    depths: position of each token in its row. exits: index after the last token of its subtree,
    so token j is seen from token i exactly if j <= i < exits[j]. places: for each part, where
    tokens base, base + 1, … of its row stand.
    """

    ids: bytes
    depths: list[int]
    exits: list[int]
    places: list[Sequence[int]]


def lay_out(forward: Forward, rows: SortedPaths) -> Layout:
    ids: list[bytes] = []
    depths: list[int] = []
    exits: list[int] = []
    places: list[Sequence[int]] = []
    path: list[int] = []
    for part in forward.parts:
        offset = len(depths)
        for left in path[part.start - forward.base :]:
            exits[left] = offset
        del path[part.start - forward.base :]
        count = part.stop - part.start
        path.extend(range(offset, offset + count))
        depths.extend(range(part.start, part.stop))
        exits.extend([0] * count)
        ids.append(rows.paths[part.row][part.start * TOKEN_BYTES : part.stop * TOKEN_BYTES])
        places.append(path.copy())
    for left in path:
        exits[left] = len(depths)
    return Layout(b"".join(ids), depths, exits, places)
