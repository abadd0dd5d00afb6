/** NumPy files: `.npy` and `.npz`, without pickle, measured before any memory is taken. */
import { VoxgapError } from "../errors.js";
import { Bytes } from "./bytes.js";
import { decode, gather, product, sizeOf, times } from "./numbers.js";
import { spacingOf } from "./orientation.js";
import { member, members } from "./zip.js";

const MAX_HEADER = 10_000;
const MAX_SMALL = 2 ** 20;
const HEADER = // as NumPy writes it
  /^\{[ \n]*'descr':[ \n]*'([<>|=]?)(\w+)',[ \n]*'fortran_order':[ \n]*(True|False),[ \n]*'shape':[ \n]*\(([\d, ]*)\),?[ \n]*\}[ \n]*$/;
/** Which axis of a volume a name means, where a file names its axes. */
const NAMES = {
  x: ["x", "lon", "longitude", "width", "column", "columns", "easting"],
  y: ["y", "lat", "latitude", "height", "row", "rows", "northing"],
  c: ["c", "s", "channel", "channels", "band", "bands", "sample", "samples"],
  z: ["z", "depth", "slice", "slices", "frame", "frames", "t", "time", "lev", "level", "plev", "altitude"],
};

/**
 * @param {Blob} blob
 * @param {(shape: number[], spacing: number[] | null) => void} fits throws unless a volume of this shape is wanted
 * @returns {Promise<{values: Float32Array, shape: number[], spacing: null, affine: null}>}
 */
export async function readNpy(blob, fits) {
  const stream = new Bytes(blob);
  try {
    const header = await readHeader(stream);
    const layout = arrange(header, []);
    fits(layout.shape, null);
    return { values: await values(stream, header, layout), shape: layout.shape, spacing: null, affine: null };
  } finally {
    await stream.close();
  }
}

/** Reads `values` (with `affine`, `spacing`, `axes`) of a `.npz`, or its one array of rank 3 or 4. */
export async function readNpz(blob, fits) {
  const found = await members(blob);
  const name = found.has("values") ? "values" : await onlyArray(blob, found);
  const small = async (key) => (name === "values" && found.has(key) ? await smallArray(blob, found.get(key)) : null);
  const affine = rows(await small("affine"));
  const spacing = (await small("spacing"))?.values ?? (affine && spacingOf(affine));
  const axes = (await small("axes"))?.values ?? [];
  await small("channels"); // not needed, but a damaged file is refused wherever the damage is
  return member(blob, found.get(name), async (stream) => {
    const header = await readHeader(stream);
    const layout = arrange(header, axes);
    fits(layout.shape, spacing);
    return { values: await values(stream, header, layout), shape: layout.shape, spacing, affine };
  });
}

async function values(stream, header, layout) {
  if (!sizeOf(header.kind)) {
    throw new VoxgapError(`dtype ${header.kind} is not plain numbers, nothing pickled is read; save float32`);
  }
  const bytes = await stream.read(product(header.shape) * sizeOf(header.kind));
  return gather(decode(bytes, header.kind, header.bigEndian), layout);
}

async function readHeader(stream) {
  const magic = await stream.read(8);
  if (String.fromCharCode(...magic.subarray(0, 6)) !== "\x93NUMPY") {
    throw new VoxgapError("is not a NumPy file; check its name and source");
  }
  if (![1, 2].includes(magic[6]) || magic[7] !== 0) throw new VoxgapError("unknown .npy version; save plain numbers with numpy.save");
  const size = await stream.read(magic[6] === 1 ? 2 : 4);
  const length = size.reduceRight((sum, byte) => sum * 256 + byte, 0);
  if (length > MAX_HEADER) throw new VoxgapError("its header is damaged; copy it again");
  const text = String.fromCharCode(...(await stream.read(length)));
  const [, order, kind, fortran, inside] = HEADER.exec(text) ?? [];
  if (!kind) throw new VoxgapError("holds no plain numbers, nothing pickled is read; save float32");
  const shape = inside.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  return { kind, bigEndian: order === ">", fortran: fortran === "True", shape };
}

/** Finds which stored axis is depth, height, width and channels: by name where there are names, else by rank. */
function arrange({ shape, fortran }, names) {
  if (Math.min(...shape, Infinity) < 1) throw new VoxgapError(`shape ${times(shape)} holds no voxel`);
  const kinds = shape.map((_, i) => kindOf([...(names.length === 3 ? names : []), "channel"][i], names));
  const named = (kind) => kinds.flatMap((k, i) => (k === kind ? [i] : []));
  let channel = named("c").length === 1 ? named("c")[0] : null;
  let spatial = shape.map((_, i) => i).filter((i) => i !== channel);
  if (channel === null && spatial.length === 4 && !kinds.some(Boolean)) {
    channel = 3;
    spatial = [0, 1, 2];
  }
  for (const axis of [...spatial]) {
    if (spatial.length > 3 && shape[axis] === 1 && !["x", "y"].includes(kinds[axis])) {
      spatial = spatial.filter((i) => i !== axis);
    }
  }
  if (spatial.length !== 3) {
    throw new VoxgapError(
      `shape ${times(shape)} has rank ${shape.length}; give (depth, height, width) or (depth, height, width, channels)`,
    );
  }
  const [height, width] = [named("y"), named("x")];
  if (height.length === 1 && width.length === 1) {
    spatial = [...spatial.filter((i) => i !== height[0] && i !== width[0]), height[0], width[0]];
  }
  const steps = shape.map((_, i) => product(fortran ? shape.slice(0, i) : shape.slice(i + 1)));
  const order = channel === null ? spatial : [...spatial, channel];
  const pick = (from, otherwise) => [...order.map((axis) => from[axis]), ...(channel === null ? [otherwise] : [])];
  return { shape: pick(shape, 1), strides: pick(steps, 0), offset: 0 };
}

function kindOf(name, names) {
  if (names.length !== 3 || !name) return "";
  return Object.keys(NAMES).find((kind) => NAMES[kind].includes(name.toLowerCase())) ?? "";
}

async function onlyArray(blob, found) {
  const held = [];
  for (const [name, entry] of found) {
    held.push([name, (await member(blob, entry, readHeader, true)).shape]);
  }
  const usable = held.filter(([, shape]) => [3, 4].includes(shape.length));
  if (usable.length === 1) return usable[0][0];
  const list = held.map(([name, shape]) => `${name} ${times(shape)}`).join(", ") || "nothing";
  throw new VoxgapError(`holds ${list}; name the array to use \`values\``);
}

async function smallArray(blob, entry) {
  return member(blob, entry, async (stream) => {
    const { kind, bigEndian, fortran, shape } = await readHeader(stream);
    const letters = /^U(\d+)$/.exec(kind);
    const size = product(shape) * (letters ? 4 * Number(letters[1]) : (sizeOf(kind) ?? NaN));
    if (!(size <= MAX_SMALL)) throw new VoxgapError(`shape ${times(shape)}, dtype ${kind}: is damaged; write it again`);
    const bytes = await stream.read(size);
    const numbers = decode(bytes, letters ? "u4" : kind, bigEndian);
    const read = letters ? texts(numbers, Number(letters[1])) : Array.from(numbers);
    return { shape, fortran, values: read };
  });
}

const texts = (codes, length) =>
  Array.from({ length: codes.length / length }, (_, i) =>
    String.fromCodePoint(...codes.subarray(i * length, (i + 1) * length)).replace(/\0+$/, ""),
  );

function rows(array) {
  if (array === null) return null;
  const { shape, fortran, values: v } = array;
  if (String(shape) !== "4,4" || !v.every(Number.isFinite)) throw new VoxgapError("its affine is not finite 4×4");
  return [0, 1, 2, 3].map((i) => [0, 1, 2, 3].map((j) => (fortran ? v[j * 4 + i] : v[i * 4 + j])));
}
