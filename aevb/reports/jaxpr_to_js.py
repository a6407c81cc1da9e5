"""Converts a function of one vector to a list of operations that a page can run without JAX.

The conversion follows JAX's trace of the function. Values that do not depend on the vector are
computed here and become constants. Operations that only move numbers become strided copies. The
others keep JAX's names and are implemented in `pages/operations.js`.
"""

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Elementwise operations; an operand of one element is broadcast.
ELEMENTWISE = (
    *("abs", "add", "and", "div", "eq", "erf", "erfc", "exp", "expm1", "ge", "gt", "le", "log"),
    *("log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rsqrt"),
    *("select_n", "sign", "sqrt", "square", "sub", "tanh"),
)
RENAMED = {"add_any": "add"}
SAME = ("convert_element_type", "copy", "copy_p", "reduce_precision", "stop_gradient")
MOVES = ("broadcast_in_dim", "expand_dims", "reshape", "rev", "slice", "squeeze", "transpose")
REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "largest"}
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that contain a traced inner function


class NotPortableError(Exception):
    """The error for a function with an operation that pages do not implement."""


class _Known(NamedTuple):
    """A value that does not depend on the input."""

    value: Any


class _Slot(NamedTuple):
    """A value that depends on the input, or a constant operand; stored in row-major order."""

    number: int
    shape: tuple[int, ...]


def portable(function: Callable[[Array], Array], num_inputs: int) -> dict[str, Any]:
    """Returns the operations of a function from a vector [num_inputs] to an array, as JSON.

    Arrays are in numbered slots. Slot 0 is the input, constants are float32 numbers in base64, and
    each step names the slots that it reads and the slot that it writes.

    Raises:
        NotPortableError: the trace has an operation that is not in the tables of this file.
    """
    trace = jax.make_jaxpr(function)(jnp.zeros(num_inputs))
    writer = _Writer(num_inputs)
    (result,) = writer.follow(trace.jaxpr, trace.consts, [writer.input])
    output = writer.slot(result)
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


class _Writer:
    def __init__(self, num_inputs: int):
        self.input = _Slot(0, (num_inputs,))
        self.num_slots = 1
        self.steps: list[dict[str, Any]] = []
        self.constants: list[dict[str, Any]] = []

    def slot(self, value: _Known | _Slot) -> _Slot:
        """Returns the slot of a value; allocates one if the value is a constant."""
        if isinstance(value, _Slot):
            return value
        numbers = np.asarray(jnp.asarray(value.value).astype(jnp.float32))
        made = self._new(numbers.shape)
        self.constants.append({"slot": made.number, "data": encode_floats(numbers)})
        return made

    def follow(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Adds the operations of a traced function and returns its results."""
        values: dict[Any, _Known | _Slot] = {}
        values.update(zip(jaxpr.constvars, map(_Known, consts), strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Known | _Slot:
            return _Known(atom.val) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            results = self._apply(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, inputs: list[Any]) -> list[Any]:
        params = equation.params
        name = RENAMED.get(equation.primitive.name, equation.primitive.name)
        inner = next((params[key] for key in INNER if key in params), None)
        if inner is not None:
            jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            return self.follow(jaxpr, consts, inputs)
        if all(isinstance(value, _Known) for value in inputs):
            found = equation.primitive.bind(*[value.value for value in inputs], **params)
            return [*map(_Known, found if equation.primitive.multiple_results else [found])]
        shape = equation.outvars[0].aval.shape
        if name in SAME:
            return inputs
        if name in MOVES:
            (source,) = inputs
            return [self._move(source, lambda x: equation.primitive.bind(x, **params))]
        if name in REDUCTIONS:
            (source,) = inputs
            return [self._reduce(source, params["axes"], REDUCTIONS[name], shape)]
        if name == "integer_pow":
            inputs = [*inputs, _Known(float(params["y"]))]
            name = "pow"
        if name in ELEMENTWISE:
            return [self._emit(name, [self._operand(value, shape) for value in inputs], shape)]
        if name == "dot_general":
            return [self._product(inputs[0], inputs[1], params["dimension_numbers"], shape)]
        if name == "conv_general_dilated":
            return [self._convolution(inputs[0], inputs[1], params, shape)]
        raise NotPortableError(f"a page does not know JAX's operation {name}")

    def _operand(self, value: _Known | _Slot, shape: tuple[int, ...]) -> _Slot:
        """Returns the slot of an elementwise operand: broadcast to `shape`, or a single element."""
        if isinstance(value, _Known):
            known = np.asarray(jnp.asarray(value.value).astype(jnp.float32))
            if known.size and np.all(known == known.flat[0]):
                value = _Known(known.reshape(-1)[0])
        found = self.slot(value)
        if math.prod(found.shape) == 1:
            return found
        return self._move(found, lambda x: jnp.broadcast_to(x, shape))

    def _emit(self, op: str, inputs: list[_Slot], shape: tuple[int, ...], **how: Any) -> _Slot:
        made = self._new(shape)
        step = {"op": op, "in": [source.number for source in inputs], "out": made.number}
        self.steps.append({**step, "size": math.prod(shape), **how})
        return made

    def _new(self, shape: tuple[int, ...]) -> _Slot:
        self.num_slots += 1
        return _Slot(self.num_slots - 1, tuple(shape))

    def _move(self, source: _Slot, move: Callable[[Array], Array]) -> _Slot:
        """Adds an operation that only moves numbers, as a strided copy.

        The strides are found by applying the operation to the indices of the numbers.
        """
        places = jnp.arange(math.prod(source.shape), dtype=jnp.int32).reshape(source.shape)
        taken = np.asarray(move(places))
        if taken.size == places.size and np.array_equal(taken.ravel(), places.ravel()):
            return _Slot(source.number, taken.shape)
        origin = taken[(0,) * taken.ndim]
        strides = [
            int(np.take(taken, 1, axis)[(0,) * (taken.ndim - 1)] - origin) if size > 1 else 0
            for axis, size in enumerate(taken.shape)
        ]
        return self._emit(
            "strided", [source], taken.shape, offset=int(origin), sizes=list(taken.shape),
            strides=strides,
        )  # fmt: skip

    def _reduce(
        self, source: _Slot, axes: tuple[int, ...], op: str, shape: tuple[int, ...]
    ) -> _Slot:
        kept = [axis for axis in range(len(source.shape)) if axis not in axes]
        last = self._move(source, lambda x: jnp.transpose(x, (*kept, *axes)))
        return self._emit(op, [last], shape, over=math.prod(source.shape[axis] for axis in axes))

    def _product(self, left: Any, right: Any, dimensions: Any, shape: tuple[int, ...]) -> _Slot:
        """Adds a matrix product of left, arranged as [m, k], and right, arranged as [k, n]."""
        ((left_axes, right_axes), (left_batch, right_batch)) = dimensions
        if left_batch or right_batch:
            raise NotPortableError("a page does not know matrix products with a batch")
        left, right = self._matrix(left, left_axes, False), self._matrix(right, right_axes, True)
        inner = left.shape[1]
        return self._emit("product", [left, right], shape, inner=inner, columns=right.shape[1])

    def _matrix(self, value: _Known | _Slot, axes: tuple[int, ...], come_first: bool) -> _Slot:
        """Returns an operand as a matrix, with the summed axes merged into its first or last."""
        ndim = jnp.ndim(value.value) if isinstance(value, _Known) else len(value.shape)
        kept = tuple(axis for axis in range(ndim) if axis not in axes)
        order = (*axes, *kept) if come_first else (*kept, *axes)

        def arrange(x: Array) -> Array:
            size = math.prod(x.shape[axis] for axis in axes)
            return jnp.transpose(x, order).reshape((size, -1) if come_first else (-1, size))

        if isinstance(value, _Known):
            return self.slot(_Known(arrange(jnp.asarray(value.value))))
        return self._move(value, arrange)

    def _convolution(
        self, image: Any, kernel: Any, params: dict[str, Any], shape: tuple[int, ...]
    ) -> _Slot:
        """Adds a convolution of one image [rows, columns, channels], the layout of flax."""
        numbers = params["dimension_numbers"]
        if not isinstance(kernel, _Known) or not isinstance(image, _Slot):
            raise NotPortableError(
                "a page does not know convolutions with a kernel that is computed"
            )
        is_plain = params["feature_group_count"] == params["batch_group_count"] == 1
        if not is_plain or len(shape) != 4 or set(params["rhs_dilation"]) != {1}:
            raise NotPortableError("a page does not know grouped or dilated convolutions")
        image = self._move(image, lambda x: jnp.transpose(x, _last(numbers.lhs_spec)))
        laid_out = jnp.transpose(jnp.asarray(kernel.value), _inputs_outputs(numbers.rhs_spec))
        out = numbers.out_spec
        rows, columns, channels = shape[out[2]], shape[out[3]], shape[out[1]]
        found = self._emit(
            "convolution", [image, self.slot(_Known(laid_out))], (1, rows, columns, channels),
            image=list(image.shape[1:]), kernel=list(laid_out.shape), result=[rows, columns],
            strides=list(params["window_strides"]), spread=list(params["lhs_dilation"]),
            before=[low for low, _ in params["padding"]],
        )  # fmt: skip
        return self._move(found, lambda x: jnp.transpose(x, np.argsort(_last(out)).tolist()))


def _last(spec: Sequence[int]) -> tuple[int, ...]:
    """Returns the axis order that puts the channels last.

    Args:
        spec: the axes (batch, channels, rows, columns).
    """
    batch, channels, *space = spec
    return (batch, *space, channels)


def _inputs_outputs(spec: Sequence[int]) -> tuple[int, ...]:
    """Returns the axis order (rows, columns, in, out) of a kernel.

    Args:
        spec: the axes (out, in, rows, columns).
    """
    outputs, inputs, *space = spec
    return (*space, inputs, outputs)
