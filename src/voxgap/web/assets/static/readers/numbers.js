/** Stored numbers to float32, and a stored order of axes to (depth, height, width, channels). */
import { VoxgapError } from "../errors.js";

const ARRAYS = {
  b1: Uint8Array,
  i1: Int8Array,
  u1: Uint8Array,
  i2: Int16Array,
  u2: Uint16Array,
  i4: Int32Array,
  u4: Uint32Array,
  i8: BigInt64Array,
  u8: BigUint64Array,
  f2: Uint16Array,
  f4: Float32Array,
  f8: Float64Array,
};

/** Bytes of one number of this kind (NumPy's letter and size: "f4"), or undefined for what is no real number. */
export const sizeOf = (kind) => ARRAYS[kind]?.BYTES_PER_ELEMENT;

/**
 * @param {Uint8Array} bytes in a buffer of their own, overwritten
 * @param {string} kind "f4", "i2", ...
 * @param {boolean} bigEndian
 * @returns {ArrayLike<number>}
 */
export function decode(bytes, kind, bigEndian) {
  const size = sizeOf(kind);
  if (bigEndian) for (let i = 0; i < bytes.length; i += size) bytes.subarray(i, i + size).reverse();
  const stored = new ARRAYS[kind](bytes.buffer, 0, bytes.length / size);
  if (kind === "f2") return Float32Array.from(stored, half);
  return size === 8 && kind !== "f8" ? Float64Array.from(stored, Number) : stored;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/**
 * @param {ArrayLike<number>} stored
 * @param {{shape: number[], strides: number[], offset: number}} layout where (d, h, w, c) lies in `stored`
 * @param {{slope: number, intercept: number} | null} scaling
 * @returns {Float32Array} in the order (depth, height, width, channels)
 */
export function gather(stored, { shape, strides, offset }, scaling = null) {
  const [depth, height, width, channels] = shape;
  const { slope, intercept } = scaling ?? { slope: 1, intercept: 0 };
  const values = new Float32Array(depth * height * width * channels);
  let place = 0;
  let infinite = 0;
  for (let d = 0; d < depth; d++) {
    for (let h = 0; h < height; h++) {
      for (let w = 0; w < width; w++) {
        let from = offset + d * strides[0] + h * strides[1] + w * strides[2];
        for (let c = 0; c < channels; c++, from += strides[3]) {
          values[place] = scaling ? stored[from] * slope + intercept : stored[from];
          if (Math.abs(values[place]) === Infinity) infinite++;
          place++;
        }
      }
    }
  }
  if (infinite) {
    const many = infinite > 1 ? "s" : "";
    throw new VoxgapError(
      `${infinite} infinite value${many} (or beyond float32); replace by NaN where missing, by a finite number elsewhere`,
    );
  }
  return values;
}

export const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

/** Writes a shape as people do: 28×28×28×1. */
export const times = (shape) => shape.join("×") || "()";
