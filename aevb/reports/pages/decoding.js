// Decoding: the operations of jaxpr_to_js.py on typed arrays, and the search of precomputed points.
// Intermediate results are float64, so the page differs from JAX's float32 only by JAX's rounding.
"use strict";

const UNARY = {
  abs: Math.abs, exp: Math.exp, expm1: Math.expm1, log: Math.log, log1p: Math.log1p,
  sqrt: Math.sqrt, sign: Math.sign, tanh: Math.tanh, logistic: (a) => 1 / (1 + Math.exp(-a)),
  neg: (a) => -a, rsqrt: (a) => 1 / Math.sqrt(a), square: (a) => a * a,
  erfc: (a) => 1 - errorFunction(a),
};

const BINARY = {
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b,
  max: Math.max, min: Math.min, pow: Math.pow,
  eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b), lt: (a, b) => +(a < b),
  le: (a, b) => +(a <= b), gt: (a, b) => +(a > b), ge: (a, b) => +(a >= b),
};

const step = (array) => (array.length === 1 ? 0 : 1); // an operand of one element is broadcast

const OPERATIONS = {
  select_n(_, [which, ...cases], out) {
    const w = step(which), steps = cases.map(step);
    for (let i = 0; i < out.length; i++) {
      const chosen = which[i * w];
      out[i] = cases[chosen][i * steps[chosen]];
    }
  },
  strided({ offset, sizes, strides }, [from], out) {
    const at = sizes.map(() => 0);
    let place = offset;
    for (let i = 0; i < out.length; i++) {
      out[i] = from[place];
      for (let axis = sizes.length - 1; axis >= 0; axis--) {
        place += strides[axis];
        if (++at[axis] < sizes[axis]) break;
        place -= strides[axis] * sizes[axis];
        at[axis] = 0;
      }
    }
  },
  joined(_, parts, out) {
    let place = 0;
    for (const part of parts) {
      out.set(part, place);
      place += part.length;
    }
  },
  sum({ over }, [from], out) {
    for (let i = 0; i < out.length; i++) {
      let sum = 0;
      for (let j = i * over; j < (i + 1) * over; j++) sum += from[j];
      out[i] = sum;
    }
  },
  largest({ over }, [from], out) {
    for (let i = 0; i < out.length; i++) {
      let most = -Infinity;
      for (let j = i * over; j < (i + 1) * over; j++) most = Math.max(most, from[j]);
      out[i] = most;
    }
  },
  product({ inner, columns }, [left, right], out) {
    out.fill(0);
    const rows = out.length / columns;
    for (let row = 0; row < rows; row++) {
      const start = row * columns;
      for (let k = 0; k < inner; k++) {
        const factor = left[row * inner + k], at = k * columns;
        for (let column = 0; column < columns; column++) {
          out[start + column] += factor * right[at + column];
        }
      }
    }
  },
  convolution({ image, kernel, result, strides, spread, before }, [from, weights], out) {
    out.fill(0);
    const [rows, columns, inputs] = image, [height, width, , outputs] = kernel;
    for (let y = 0; y < result[0]; y++) {
      for (let i = 0; i < height; i++) {
        const row = (y * strides[0] + i - before[0]) / spread[0];
        if (row < 0 || row >= rows || !Number.isInteger(row)) continue;
        for (let x = 0; x < result[1]; x++) {
          const start = (y * result[1] + x) * outputs;
          for (let j = 0; j < width; j++) {
            const column = (x * strides[1] + j - before[1]) / spread[1];
            if (column < 0 || column >= columns || !Number.isInteger(column)) continue;
            for (let c = 0; c < inputs; c++) {
              const factor = from[(row * columns + column) * inputs + c];
              const at = ((i * width + j) * inputs + c) * outputs;
              for (let o = 0; o < outputs; o++) out[start + o] += factor * weights[at + o];
            }
          }
        }
      }
    }
  },
};

for (const [name, f] of Object.entries(UNARY)) {
  OPERATIONS[name] = (_, [a], out) => {
    for (let i = 0; i < out.length; i++) out[i] = f(a[i]);
  };
}

for (const [name, f] of Object.entries(BINARY)) {
  OPERATIONS[name] = (_, [a, b], out) => {
    const left = step(a), right = step(b);
    for (let i = 0; i < out.length; i++) out[i] = f(a[i * left], b[i * right]);
  };
}

// Decodes base64 to a Uint8Array, and base64 of little-endian float32 to a Float32Array.
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);

// Compiles a program of jaxpr_to_js.py to a function from an array to a Float64Array, which each
// call overwrites.
function compile(program) {
  const slots = [new Float64Array(program.num_inputs)];
  for (const { slot, data } of program.constants) slots[slot] = floats(data);
  const steps = program.steps.map((one) => {
    const out = (slots[one.out] = new Float64Array(one.size));
    return [OPERATIONS[one.op], one, one.in.map((slot) => slots[slot]), out];
  });
  return (input) => {
    slots[0].set(input);
    for (const [run, how, operands, out] of steps) run(how, operands, out);
    return slots[program.output];
  };
}

// Returns erf(x) by its series near 0 and its continued fraction elsewhere, accurate to rounding.
function errorFunction(x) {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a, sum = a;
    for (let n = 1; n < 80; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

// Returns the distribution function of N(0, 1) at z.
const cdf = (z) => 0.5 * (1 + errorFunction(z / Math.SQRT2));

// Returns a function from z [Z] to the number of the nearest of some points [N][Z]. Distances are
// between quantiles, as in the square of the page.
function nearestOf(points) {
  const quantiles = points.map((point) => point.map(cdf));
  return (z) => {
    const wanted = z.map(cdf);
    let nearest = 0, least = Infinity;
    quantiles.forEach((found, n) => {
      const distance = found.reduce((sum, u, unit) => sum + (u - wanted[unit]) ** 2, 0);
      if (distance < least) [nearest, least] = [n, distance];
    });
    return nearest;
  };
}
