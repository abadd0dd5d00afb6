/** The members of a ZIP archive, found through its directory, inflated no further than asked. */
import { VoxgapError } from "../errors.js";
import { Bytes } from "./bytes.js";

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const MAX_DIRECTORY = 2 ** 20;
const MAX_MEMBERS = 1000;

/**
 * @param {Blob} blob
 * @returns {Promise<Map<string, object>>} each array's name, without `.npy`, and where it lies
 */
export async function members(blob) {
  const tail = await view(blob, Math.max(0, blob.size - 65_557), blob.size);
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END) at--;
  if (at < 0) throw new VoxgapError("is not a whole .npz file; copy it again");
  const size = tail.getUint32(at + 12, true);
  const start = tail.getUint32(at + 16, true);
  if (size > MAX_DIRECTORY || start + size !== blob.size - tail.byteLength + at) throw damaged();
  return entries(await view(blob, start, start + size));
}

/**
 * Hands a member's bytes, as a stream, to `read`, and compares its checksum unless only a part is wanted.
 *
 * @param {Blob} blob
 * @param {object} entry of `members`
 * @param {(stream: Bytes) => Promise<any>} read
 * @param {boolean} part
 */
export async function member(blob, entry, read, part = false) {
  const local = await view(blob, entry.start, entry.start + 30);
  if (local.byteLength < 30 || local.getUint32(0, true) !== LOCAL) throw damaged();
  if (entry.unusual || ![0, 8].includes(entry.method)) throw new VoxgapError("is packed in an unusual way; use numpy.savez_compressed");
  const end = entry.start + 30 + local.getUint16(26, true);
  if (decoded(await view(blob, entry.start + 30, end)) !== entry.name) throw damaged();
  const from = end + local.getUint16(28, true);
  const stream = new Bytes(blob.slice(from, from + entry.packed), entry.method === 8 ? "deflate-raw" : "");
  try {
    stream.checksum = 0;
    const found = await read(stream);
    if (part) return found;
    await stream.finish();
    if (stream.position !== entry.size) throw damaged();
    if (stream.checksum !== entry.checksum) throw new VoxgapError("its checksum is wrong; copy it again");
    return found;
  } finally {
    await stream.close();
  }
}

function entries(directory) {
  const found = new Map();
  let at = 0;
  while (at < directory.byteLength) {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== ENTRY) throw damaged();
    const [length, extra, comment] = [28, 30, 32].map((field) => directory.getUint16(at + field, true));
    if (at + 46 + length > directory.byteLength || found.size >= MAX_MEMBERS) throw damaged();
    const name = decoded(new DataView(directory.buffer, at + 46, length));
    const entry = {
      name,
      // Encrypted, patched, or strongly encrypted.
      unusual: Boolean(directory.getUint16(at + 8, true) & 0x61),
      method: directory.getUint16(at + 10, true),
      checksum: directory.getUint32(at + 16, true),
      packed: directory.getUint32(at + 20, true),
      size: directory.getUint32(at + 24, true),
      start: directory.getUint32(at + 42, true),
    };
    if (name.endsWith(".npy")) found.set(name.slice(0, -4), entry);
    at += 46 + length + extra + comment;
  }
  return found;
}

const view = async (blob, from, to) => new DataView(await blob.slice(from, to).arrayBuffer());

const decoded = (letters) => new TextDecoder().decode(letters);

const damaged = () => new VoxgapError("its directory is damaged; copy it again");
