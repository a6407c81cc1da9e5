"""Converts a function of one vector to a list of operations that a page can run without JAX.

The conversion follows JAX's trace of the function. Values that do not depend on the vector are
computed here and become constants. Operations that only move numbers become strided copies. The
others keep JAX's names and are implemented in `pages/decoding.js`. They suffice for the decoders of
this package and for common activation functions; other decoders get a page of precomputed points.
"""

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import ConvDimensionNumbers

# Elementwise operations; an operand of one element is broadcast.
ELEMENTWISE = (
    *("abs", "add", "div", "eq", "erfc", "exp", "expm1", "ge", "gt", "le", "log", "log1p"),
    *("logistic", "lt", "max", "min", "mul", "ne", "neg", "pow", "rsqrt", "select_n", "sign"),
    *("sqrt", "square", "sub", "tanh"),
)
SAME = ("copy", "copy_p", "reduce_precision", "stop_gradient")
MOVES = ("broadcast_in_dim", "expand_dims", "reshape", "rev", "slice", "squeeze", "transpose")
REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "largest"}
# Calls of a function that was traced separately; "remat2" is jax.checkpoint.
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2")
FLAX_LAYOUT = ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # of convolutions


class NotPortableError(Exception):
    """The error for a function with an operation that pages do not implement."""

    def __init__(self, operation: str):
        super().__init__(f"there is no JavaScript for JAX's operation {operation}")


class _Slot(NamedTuple):
    """A value that depends on the input, or a constant operand; stored in row-major order."""

    number: int
    shape: tuple[int, ...]


_Value = Array | _Slot  # an array does not depend on the input


def portable(function: Callable[[Array], Array], num_inputs: int) -> dict[str, Any]:
    """Returns the operations of a function from a vector [num_inputs] to an array, as JSON.

    Arrays are in numbered slots. Slot 0 is the input, constants are float32 numbers in base64, and
    each step names the slots that it reads and the slot that it writes.

    Raises:
        NotPortableError: the trace has an operation that is not in the tables of this file.
    """
    trace = jax.make_jaxpr(function)(jnp.zeros(num_inputs))
    writer = _Writer()
    (result,) = writer.follow(trace.jaxpr, trace.consts, [writer.new_slot((num_inputs,))])
    output = writer.slot_of(result)
    steps, needed = [], {output.number}
    for step in reversed(writer.steps):  # leaves out unused results, for example a variance
        if step["out"] in needed:
            needed.update(step["in"])
            steps.append(step)
    return {
        "num_inputs": num_inputs,
        "constants": [c for c in writer.constants if c["slot"] in needed],
        "steps": steps[::-1],
        "output": output.number,
    }


def encode_floats(values: Any) -> str:
    """Returns numbers as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def encode_bytes(values: Any) -> str:
    """Returns whole numbers in 0..255 as base64 of bytes."""
    return base64.b64encode(np.asarray(values, np.uint8).tobytes()).decode()


class _Writer:
    """The steps and constants of a program that is being written."""

    def __init__(self) -> None:
        self.num_slots = 0
        self.steps: list[dict[str, Any]] = []
        self.constants: list[dict[str, Any]] = []

    def new_slot(self, shape: Sequence[int]) -> _Slot:
        self.num_slots += 1
        return _Slot(self.num_slots - 1, tuple(shape))

    def slot_of(self, value: _Value) -> _Slot:
        """Returns the slot of a value; allocates one if the value is a constant."""
        if isinstance(value, _Slot):
            return value
        slot = self.new_slot(value.shape)
        self.constants.append(
            {"slot": slot.number, "data": encode_floats(value.astype(jnp.float32))}
        )
        return slot

    def follow(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        """Adds the operations of a traced function and returns its results."""
        values: dict[Any, _Value] = {}
        values.update(zip(jaxpr.constvars, map(jnp.asarray, consts), strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Value:
            return jnp.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            results = self._apply(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, inputs: list[_Value]) -> Sequence[_Value]:
        """Adds the operation of an equation, or computes it if it does not depend on the input."""
        primitive, params = equation.primitive, equation.params
        if primitive.name in CALLS:
            inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            return self.follow(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        if not any(isinstance(value, _Slot) for value in inputs):
            found = primitive.bind(*inputs, **params)
            return found if primitive.multiple_results else [found]
        if primitive.name == "split":
            return [
                self._move(inputs[0], lambda x, at=at: primitive.bind(x, **params)[at])
                for at in range(len(equation.outvars))
            ]
        return [self._result(equation, inputs)]

    def _result(self, equation: Any, inputs: list[_Value]) -> _Value:
        """Adds an operation that depends on the input, and returns its result."""
        name, params = equation.primitive.name, equation.params
        first, last, shape = inputs[0], inputs[-1], equation.outvars[0].aval.shape
        if name in SAME or (name == "convert_element_type" and _keeps_numbers(equation)):
            return first
        if name in MOVES:
            return self._move(first, lambda x: equation.primitive.bind(x, **params))
        if name in REDUCTIONS:
            matrix = self._merge(first, params["axes"], come_first=False)
            return self._emit(REDUCTIONS[name], [matrix], shape, over=matrix.shape[1])
        if name == "add_any":
            name = "add"
        if name == "integer_pow":
            name, inputs = "pow", [first, jnp.float32(params["y"])]
        if name in ELEMENTWISE:
            return self._emit(name, [self._operand(value, shape) for value in inputs], shape)
        if name == "concatenate" and params["dimension"] == 0:  # one after the other in memory
            return self._emit("joined", inputs, shape)
        if name == "dot_general":
            return self._product(first, last, params["dimension_numbers"], shape)
        if name == "conv_general_dilated":
            return self._convolution(first, last, params, shape)
        raise NotPortableError(name)

    def _operand(self, value: _Value, shape: tuple[int, ...]) -> _Value:
        """Returns an elementwise operand: broadcast to `shape`, or a single element."""
        if isinstance(value, Array) and value.size:
            numbers = np.asarray(value).ravel()
            if np.all(numbers == numbers[0]):
                return jnp.asarray(numbers[0])
        if math.prod(value.shape) == 1:
            return value
        return self._move(self.slot_of(value), lambda x: jnp.broadcast_to(x, shape))

    def _emit(self, op: str, inputs: Sequence[_Value], shape: Sequence[int], **how: Any) -> _Slot:
        """Adds a step and returns the slot that it writes."""
        sources = [self.slot_of(value).number for value in inputs]
        slot = self.new_slot(shape)
        size = math.prod(shape)
        self.steps.append({"op": op, "in": sources, "out": slot.number, "size": size, **how})
        return slot

    def _move(self, source: _Value, move: Callable[[Array], Array]) -> _Value:
        """Adds an operation that only moves numbers, as a strided copy.

        The strides are found by applying the operation to the indices of the numbers.
        """
        if not isinstance(source, _Slot):
            return move(source)
        size = math.prod(source.shape)
        indices = np.asarray(
            move(jnp.asarray(np.arange(size, dtype=np.int32).reshape(source.shape)))
        )
        if np.array_equal(indices.ravel(), np.arange(size)):
            return _Slot(source.number, indices.shape)
        offset = indices[(0,) * indices.ndim]
        strides = [
            int(np.take(indices, 1, axis)[(0,) * (indices.ndim - 1)] - offset) if length > 1 else 0
            for axis, length in enumerate(indices.shape)
        ]
        sizes = list(indices.shape)
        return self._emit(
            "strided", [source], sizes, offset=int(offset), sizes=sizes, strides=strides
        )

    def _merge(self, value: _Value, axes: Sequence[int], *, come_first: bool) -> _Value:
        """Returns a value as a matrix, with `axes` merged into its first or last axis."""
        kept = [axis for axis in range(len(value.shape)) if axis not in axes]
        size = math.prod(value.shape[axis] for axis in axes)
        order, shape = ([*axes, *kept], (size, -1)) if come_first else ([*kept, *axes], (-1, size))
        ordered = self._move(value, lambda x: jnp.transpose(x, order))
        return self._move(ordered, lambda x: x.reshape(shape))

    def _product(
        self, left: _Value, right: _Value, dimensions: Any, shape: tuple[int, ...]
    ) -> _Slot:
        """Adds a matrix product of left, arranged as [m, k], and right, arranged as [k, n]."""
        (left_axes, right_axes), batch = dimensions
        if any(batch):
            raise NotPortableError("dot_general with a batch")
        left = self._merge(left, left_axes, come_first=False)
        right = self._merge(right, right_axes, come_first=True)
        inner, columns = right.shape
        return self._emit("product", [left, right], shape, inner=inner, columns=columns)

    def _convolution(
        self, image: _Value, kernel: _Value, params: dict[str, Any], shape: tuple[int, ...]
    ) -> _Slot:
        """Adds a convolution of one image [1, rows, columns, channels], the layout of flax."""
        is_single = params["feature_group_count"] == params["batch_group_count"] == shape[0] == 1
        dilation, layout = set(params["rhs_dilation"]), params["dimension_numbers"]
        if layout != FLAX_LAYOUT or not is_single or dilation != {1}:
            raise NotPortableError("conv_general_dilated with groups, dilation or another layout")
        return self._emit(
            "convolution", [image, kernel], shape, image=list(image.shape[1:]),
            kernel=list(kernel.shape), result=list(shape[1:3]),
            strides=list(params["window_strides"]), spread=list(params["lhs_dilation"]),
            before=[low for low, _ in params["padding"]],
        )  # fmt: skip


def _keeps_numbers(equation: Any) -> bool:
    """Returns whether a conversion of types changes no number, except by rounding to a float."""
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    return jnp.issubdtype(new, jnp.floating) or jnp.issubdtype(old, jnp.bool_)
