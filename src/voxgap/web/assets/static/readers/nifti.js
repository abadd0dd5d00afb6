/** NIfTI-1 and NIfTI-2 in one file, `.nii` or `.nii.gz`: x fastest, turned to canonical orientation. */
import { VoxgapError } from "../errors.js";
import { Bytes } from "./bytes.js";
import { decode, gather, product, sizeOf, times } from "./numbers.js";
import { canonical, spacingOf } from "./orientation.js";

const KINDS = {
  2: "u1",
  4: "i2",
  8: "i4",
  16: "f4",
  64: "f8",
  256: "i1",
  512: "u2",
  768: "u4",
  1024: "i8",
  1280: "u8",
};
/** Of a unit of length, by the lowest three bits of `xyzt_units`; a number without a unit is mm. */
const MILLIMETRES = { 1: 1e3, 3: 1e-3 };
const MAX_OFFSET = 2 ** 26;

/**
 * @param {Blob} blob
 * @param {(shape: number[], spacing: number[]) => void} fits throws unless a volume of this shape is wanted
 * @param {number} rules version of the rules by which files are read: the first took every length for mm
 * @returns {Promise<{values: Float32Array, shape: number[], spacing: number[], affine: number[][]}>}
 */
export async function readNifti(blob, fits, rules) {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const stream = new Bytes(blob, start[0] === 0x1f && start[1] === 0x8b ? "gzip" : "");
  try {
    const head = await stream.readAtMost(540);
    const header = parse(new DataView(head.buffer, 0, head.length), rules);
    const stored = storedAxes(header);
    const turn = canonical(header.affine, stored.shape);
    const layout = placed(stored, turn);
    const spacing = spacingOf(turn.affine);
    fits(layout.shape, spacing);
    const bytes = await voxels(stream, head, header, product(layout.shape));
    await stream.finish();
    const values = gather(decode(bytes, header.kind, header.bigEndian), layout, header.scaling);
    return { values, shape: layout.shape, spacing, affine: turn.affine };
  } finally {
    await stream.close();
  }
}

async function voxels(stream, head, { offset, kind }, count) {
  const out = new Uint8Array(count * sizeOf(kind));
  // NIfTI-1 voxels start before the 540 bytes end that were read to find out which of the two it is.
  const early = head.subarray(offset).subarray(0, out.length);
  out.set(early);
  await stream.skip(Math.max(0, offset - head.length));
  out.set(await stream.read(out.length - early.length), early.length);
  return out;
}

function parse(view, rules) {
  const sizes = [348, 540];
  const found = [true, false].find((little) => view.byteLength >= 348 && sizes.includes(view.getInt32(0, little)));
  if (found === undefined) throw new VoxgapError("is not a NIfTI file; check its name and source");
  const second = view.getInt32(0, found) === 540;
  if (second && view.byteLength < 540) throw new VoxgapError("is not a NIfTI file; check its name and source");
  const get = fields(view, found, second);
  const magic = String.fromCharCode(...new Uint8Array(view.buffer, ...(second ? [4, 8] : [344, 4])));
  const [single, pair] = second ? ["n+2", "ni2"].map((name) => `${name}\0\r\n\x1a\n`) : ["n+1\0", "ni1\0"];
  if (magic === pair) throw new VoxgapError("keeps its voxels in a second file (.img); save it as one .nii");
  if (magic !== single) throw new VoxgapError("is not a NIfTI file; check its name and source");
  const kind = KINDS[get.datatype()];
  if (!kind) throw new VoxgapError(`data type ${get.datatype()} is not a real number; convert it to float32`);
  const offset = Math.trunc(get.offset());
  if (!(offset >= view.getInt32(0, found)) || offset > MAX_OFFSET) {
    throw new VoxgapError(`its voxels start at byte ${offset}, damaged; copy it again`);
  }
  const shape = shapeOf(get.dim());
  const each = (rules > 1 && MILLIMETRES[get.units() & 7]) || 1;
  const affine = affineOf(get).map((row, i) => (i < 3 ? row.map((value) => each * value) : row));
  return { kind, offset, shape, bigEndian: !found, scaling: scalingOf(...get.scaling()), affine };
}

/** Where NIfTI-1 and NIfTI-2 keep the same fields. */
function fields(view, little, second) {
  const int16 = (at) => view.getInt16(at, little);
  const int32 = (at) => view.getInt32(at, little);
  const real = second ? (at) => view.getFloat64(at, little) : (at) => view.getFloat32(at, little);
  const reals = (at, count) => Array.from({ length: count }, (_, i) => real(at + i * (second ? 8 : 4)));
  const long = (at) => Number(view.getBigInt64(at, little));
  const whole = (count, read) => Array.from({ length: count }, (_, i) => read(i));
  return second
    ? {
        datatype: () => int16(12),
        dim: () => whole(8, (i) => long(16 + 8 * i)),
        pixdim: () => reals(104, 8),
        offset: () => long(168),
        scaling: () => reals(176, 2),
        units: () => int32(500),
        codes: () => [int32(344), int32(348)],
        quaternion: () => reals(352, 3),
        origin: () => reals(376, 3),
        rows: () => [reals(400, 4), reals(432, 4), reals(464, 4)],
        precision: 3 * 2 ** -52,
      }
    : {
        datatype: () => int16(70),
        dim: () => whole(8, (i) => int16(40 + 2 * i)),
        pixdim: () => reals(76, 8),
        offset: () => real(108),
        scaling: () => reals(112, 2),
        units: () => view.getUint8(123),
        codes: () => [int16(252), int16(254)],
        quaternion: () => reals(256, 3),
        origin: () => reals(268, 3),
        rows: () => [reals(280, 4), reals(296, 4), reals(312, 4)],
        precision: 3 * 2 ** -23,
      };
}

function shapeOf([rank, ...sizes]) {
  let shape = sizes.slice(0, Math.max(0, rank));
  if (shape.length === 5 && shape[3] === 1) shape = [...shape.slice(0, 3), shape[4]];
  if (rank > 7 || ![3, 4].includes(shape.length) || Math.min(...shape) < 1) {
    throw new VoxgapError(`shape ${times(shape)}; voxgap reads (x, y, z) or (x, y, z, channels)`);
  }
  return shape;
}

function scalingOf(slope, intercept) {
  if (slope === 0 || !Number.isFinite(slope)) return null;
  if (!Number.isFinite(intercept)) throw new VoxgapError("has a slope but no intercept; repair the header");
  return { slope, intercept };
}

/** The affine of (x, y, z): the sform if it says anything, else the qform, else the voxel sizes alone. */
function affineOf(get) {
  const known = [1, 2, 3, 4, 5];
  const [qform, sform] = get.codes();
  const pixdim = get.pixdim();
  const sizes = pixdim.slice(1, 4).map((size) => Math.abs(size) || (size === 0 ? 1 : size));
  if (known.includes(sform)) return [...get.rows(), [0, 0, 0, 1]];
  if (known.includes(qform)) {
    const axes = rotationOf(get.quaternion(), get.precision);
    const scale = [sizes[0], sizes[1], sizes[2] * (pixdim[0] === -1 ? -1 : 1)];
    const origin = get.origin();
    return [...axes.map((row, i) => [...row.map((v, j) => v * scale[j]), origin[i]]), [0, 0, 0, 1]];
  }
  // As nibabel has it: x runs from right to left where nothing is said, about the middle.
  const shape = get.dim().slice(1, 4);
  const steps = [-sizes[0], sizes[1], sizes[2]];
  const rows = steps.map((step, i) => [0, 1, 2].map((j) => (i === j ? step : 0)).concat((-step * (shape[i] - 1)) / 2));
  return [...rows, [0, 0, 0, 1]];
}

function rotationOf([x, y, z], precision) {
  const rest = 1 - (x * x + y * y + z * z);
  if (rest < -precision) throw new VoxgapError("its rotation (qform) is damaged; repair the header");
  const w = Math.abs(rest) < precision ? 0 : Math.sqrt(rest);
  const s = 2 / (w * w + x * x + y * y + z * z);
  return [
    [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
    [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
    [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
  ];
}

/** (x, y, z, c), x fastest, seen as (z, y, x, c). */
function storedAxes({ shape: [x, y, z, channels = 1], affine }) {
  affine.forEach((row, i) => (affine[i] = [row[2], row[1], row[0], row[3]]));
  return { shape: [z, y, x], strides: [x * y, x, 1], channels, channelStride: x * y * z };
}

function placed(stored, { order, flipped }) {
  const shape = order.map((axis) => stored.shape[axis]);
  const steps = order.map((axis) => stored.strides[axis]);
  const offset = steps.reduce((sum, step, i) => sum + (flipped[i] ? step * (shape[i] - 1) : 0), 0);
  const strides = steps.map((step, i) => (flipped[i] ? -step : step));
  return { shape: [...shape, stored.channels], strides: [...strides, stored.channelStride], offset };
}
