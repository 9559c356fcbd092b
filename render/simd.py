"""Sixteen numbers at once inside numba kernels: vectors as values, with the few operations that the rasteriser needs.

The compiler finds these by itself in no loop as short and as irregular as a triangle's rows, so they are said outright. LLVM
lowers them to whatever the processor has; results are those of plain IEEE arithmetic, lane by lane, on every machine.

`int16lanes(n)`, `float16lanes(x)` splat a scalar; `+`, `*`, `|` work lane by lane between vectors of one kind.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

# Of the rasteriser's kernels: no reference counts, whose atomic increments took most of the time, so nothing in them allocates;
# division by zero gives inf or NaN.
OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}
kernel: Any = njit(**OPTIONS)


_intrinsic: Any = intrinsic
LANES = 16


class Lanes(types.Type):
    """The numba type of sixteen numbers of one kind: int32, float32 or bool."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(name=f"Lanes({kind})")


INT, FLOAT, BOOL = Lanes("int32"), Lanes("float32"), Lanes("bool")
_IR = {
    "int32": ir.VectorType(ir.IntType(32), LANES),
    "float32": ir.VectorType(ir.FloatType(), LANES),
    "bool": ir.VectorType(ir.IntType(1), LANES),
}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _IR[kind.kind])  # type: ignore[no-untyped-call]


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    indices = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), indices)


@_intrinsic
def int16lanes(context, n):  # type: ignore[no-untyped-def]
    """Sixteen times n, of which the low 32 bits count."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat(builder, context.cast(builder, args[0], signature.args[0], types.int32))

    return (INT(n), generate) if isinstance(n, types.Integer) else None


@_intrinsic
def float16lanes(context, x):  # type: ignore[no-untyped-def]
    """Sixteen times x, rounded to float32."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat(builder, context.cast(builder, args[0], signature.args[0], types.float32))

    return (FLOAT(x), generate) if isinstance(x, types.Float) else None


def constant16(values: list[int]) -> Any:
    """A kernel function without arguments that gives these sixteen integers."""

    @_intrinsic
    def constant(context):  # type: ignore[no-untyped-def]
        return INT(), lambda context, builder, signature, args: ir.Constant(_IR["int32"], values)

    return constant


def _binary(emit_int: str, emit_float: str) -> Any:
    @_intrinsic
    def operation(context, a, b):  # type: ignore[no-untyped-def]
        emit = emit_float if a == FLOAT else emit_int
        return a(a, b), lambda context, builder, signature, args: getattr(builder, emit)(*args)

    return operation


_add, _mul, _or = _binary("add", "fadd"), _binary("mul", "fmul"), _binary("or_", "or_")


@overload(operator.add)
def _overload_add(a, b):  # type: ignore[no-untyped-def]
    return (lambda a, b: _add(a, b)) if isinstance(a, Lanes) and a == b else None


@overload(operator.mul)
def _overload_mul(a, b):  # type: ignore[no-untyped-def]
    return (lambda a, b: _mul(a, b)) if isinstance(a, Lanes) and a == b else None


@overload(operator.or_)
def _overload_or(a, b):  # type: ignore[no-untyped-def]
    return (lambda a, b: _or(a, b)) if isinstance(a, Lanes) and a == b else None


@_intrinsic
def to_float(context, a):  # type: ignore[no-untyped-def]
    """Integer lanes as floats."""
    return FLOAT(a), lambda context, builder, signature, args: builder.sitofp(args[0], _IR["float32"])


@_intrinsic
def not_negative(context, a):  # type: ignore[no-untyped-def]
    """Which integer lanes are ≥ 0."""
    return BOOL(a), lambda context, builder, signature, args: builder.icmp_signed(">=", args[0], ir.Constant(_IR["int32"], [0] * LANES))


@_intrinsic
def both_greater(context, mask, a, b):  # type: ignore[no-untyped-def]
    """mask and a > b, for float lanes; false where one is NaN."""
    return BOOL(mask, a, b), lambda context, builder, signature, args: builder.and_(args[0], builder.fcmp_ordered(">", args[1], args[2]))


@_intrinsic
def equal(context, a, b):  # type: ignore[no-untyped-def]
    """Which integer lanes are equal."""
    return BOOL(a, b), lambda context, builder, signature, args: builder.icmp_signed("==", args[0], args[1])


@_intrinsic
def clamp(context, a, low, high):  # type: ignore[no-untyped-def]
    """Float lanes brought into low … high."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        a, low, high = args
        a = builder.select(builder.fcmp_ordered(">", a, low), a, low)
        return builder.select(builder.fcmp_ordered("<", a, high), a, high)

    return FLOAT(a, low, high), generate


@_intrinsic
def any_lane(context, mask):  # type: ignore[no-untyped-def]
    """Whether any lane is true."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), generate


@_intrinsic
def all_lanes(context, mask):  # type: ignore[no-untyped-def]
    """Whether all lanes are true."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("==", bits, ir.Constant(ir.IntType(LANES), -1))

    return types.boolean(mask), generate


def _address(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any) -> Any:
    array = context.make_array(array_type)(context, builder, array)
    index = context.cast(builder, index, index_type, types.intp)
    return builder.bitcast(builder.gep(array.data, [index]), _IR[array_type.dtype.name].as_pointer())


@_intrinsic
def load16(context, array, index):  # type: ignore[no-untyped-def]
    """array[index : index + 16] of a contiguous one-dimensional int32 or float32 array; bounds are the caller's matter."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_address(context, builder, signature.args[0], args[0], signature.args[1], args[1]), align=4)

    return (INT if array.dtype == types.int32 else FLOAT)(array, index), generate


@_intrinsic
def store16(context, array, index, mask, values):  # type: ignore[no-untyped-def]
    """array[index : index + 16] = values where mask is true; the other elements are written back as they were."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        where = _address(context, builder, signature.args[0], args[0], signature.args[1], args[1])
        builder.store(builder.select(args[2], args[3], builder.load(where, align=4)), where, align=4)
        return context.get_dummy_value()

    return types.none(array, index, mask, values), generate
