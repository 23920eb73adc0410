"""Bytes that a compiled program moves through a chip's main memory, read from its text.

XLA's own "bytes accessed" adds up the operands and results of all operations, wherever they are: on
a TPU a matrix that is copied into the vector memory first, and read from there, counts three times.
Here what lies in vector memory (memory space 1) counts nothing, and what lies in main memory counts
with the padding of its tiles.
"""

import math
import re
from typing import NamedTuple

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_OPERATION = r"\s+(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)"
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "after-all",
    "copy-done", "slice-done", "async-done",
}  # fmt: skip


class Moved(NamedTuple):
    """What one operation of a program moves through main memory each time it runs."""

    read: int  # bytes
    written: int
    in_loop: bool
    origin: str  # the operation's name in the source; of a copy that has none, its consumer's


class _Operation(NamedTuple):
    name: str
    result: str  # shapes
    kind: str
    operands: list[str]
    line: str


def traffic(text: str) -> list[Moved]:
    """Returns what every operation of a compiled program moves.

    Loops count once, at any depth: of a decoding loop those `in_loop` are one step.
    """
    texts, entry = computations(text)
    bodies = {name: _operations(lines) for name, lines in texts.items()}
    found = []

    def visit(name, in_loop):
        operations = bodies[name]
        shapes = {one.name: one.result for one in operations}
        for index, one in enumerate(operations):
            for body in re.findall(r" while\(.*body=%([\w.-]+)", one.line):
                visit(body, True)
            if one.kind in _FREE:
                continue
            read, written = _moves(one, shapes, bodies)
            if read or written:
                found.append(Moved(read, written, in_loop, _origin(index, operations)))

    visit(entry, False)
    return found


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation of a compiled program by its name, and the name of the
    entry.
    """
    bodies, entry, name = {}, "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line)
        if head:
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _operations(lines: list[str]) -> list[_Operation]:
    found = []
    for line in lines:
        if op := re.match(_OPERATION, line):
            operands = re.findall(r"%([\w.-]+)", op[4].split(")")[0])
            found.append(_Operation(op[1], op[2], op[3], operands, line))
    return found


def _moves(one, shapes, bodies):
    """Bytes read and written."""
    if one.kind.endswith("-start"):  # (destination, source, ..) or ((source), destination, ..)
        arrays = _arrays(one.result)[:2]
        source, target = arrays[::-1] if one.kind == "copy-start" else arrays
        size = min(_bytes(source), _bytes(target))
        return size * _in_main(source), size * _in_main(target)
    operands = [_arrays(shapes.get(name, "")) for name in one.operands]
    results = _arrays(one.result)
    if one.kind != "fusion":
        part = _part(one, shapes, 0)
        read = [part] + [None] * (len(operands) - 1)
        update = _bytes(*operands[1]) if one.kind == "dynamic-update-slice" else None
    else:
        body = bodies[re.search(r"calls=%([\w.-]+)", one.line)[1]]
        read, update = _read_by(body, len(operands)), _update_of(body)
    moved_in = sum(
        (_main(arrays) if part is None else min(part, _main(arrays)))
        for arrays, part in zip(operands, read)
    )
    moved_out = _main(results) if update is None else min(update, _main(results))
    return moved_in, moved_out


def _read_by(body, count):
    """Of each operand of a fusion the bytes that it reads; None for all of it."""
    shapes = {one.name: one.result for one in body}
    out = [None] * count
    for one in body:
        if one.kind == "parameter":
            number = int(re.search(r"parameter\((\d+)\)", one.line)[1])
            parts = [
                _part(user, shapes, user.operands.index(one.name))
                for user in body
                if one.name in user.operands
            ]
            out[number] = None if None in parts or not parts else sum(parts)
    return out


def _part(user, shapes, position):
    """Bytes that an operation reads of its operand at a position; None for all of it."""
    if position == 0 and user.kind in ("gather", "dynamic-slice", "slice"):
        return sum(map(_bytes, _arrays(user.result)))
    if position == 0 and user.kind == "dynamic-update-slice":
        return 0  # in place
    return None


def _update_of(body):
    """Bytes that a fusion in place writes; None for a fusion with a result of its own."""
    shapes = {one.name: one.result for one in body}
    root = next(one for one in body if "ROOT %" in one.line)
    while root.kind == "bitcast":
        root = next(one for one in body if one.name == root.operands[0])
    if root.kind != "dynamic-update-slice":
        return None
    return sum(map(_bytes, _arrays(shapes[root.operands[1]])))


class _Array(NamedTuple):
    kind: str
    dims: list[int]
    order: list[int]  # of axes, the innermost first
    tiling: str


def _arrays(shapes):
    found = re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?", shapes)
    return [_Array(kind, _ints(dims), _ints(order), tiling) for kind, dims, order, tiling in found]


def _ints(text):
    return [int(x) for x in text.split(",") if x]


def _in_main(array):
    return not re.search(r"S\([^0]", array.tiling)


def _main(arrays):
    return sum(_bytes(array) for array in arrays if _in_main(array))


def _bytes(array):
    """With the innermost axes filled up to whole tiles."""
    dims = [array.dims[axis] for axis in array.order] or list(array.dims)
    tile = re.match(r"T\(([\d,]+)\)", array.tiling)
    for axis, size in enumerate(reversed(_ints(tile[1])) if tile else ()):
        if axis < len(dims):
            dims[axis] = -(-dims[axis] // size) * size
    return WIDTHS.get(array.kind, 4) * math.prod(dims)


def _origin(index, operations):
    """The name in the source of an operation, or of the first one that needs its result."""
    wanted = {operations[index].name}
    for one in operations[index:]:
        if one.name in wanted or wanted & set(one.operands):
            name = re.search(r'op_name="([^"]*)"', one.line)
            if name:
                return name[1]
            wanted.add(one.name)
    return ""
