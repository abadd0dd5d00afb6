/** Bytes of a file, read forward and never further than asked, so that no lying header or bomb is expanded. */
import { VoxgapError } from "../errors.js";

const MAX_TRAILING = 2 ** 26;

export class Bytes {
  /**
   * @param {Blob} blob
   * @param {string} packing "", "gzip" or "deflate-raw"
   */
  constructor(blob, packing = "") {
    const stream = blob.stream();
    this.reader = (packing ? stream.pipeThrough(new DecompressionStream(packing)) : stream).getReader();
    this.left = new Uint8Array(0);
    this.position = 0;
    this.checksum = null;
  }

  /** Returns the next `count` bytes, in a buffer of their own. */
  async read(count) {
    const found = await this.readAtMost(count);
    if (found.length < count) throw new VoxgapError(`ends after ${this.position} bytes, more were promised`);
    return found;
  }

  /** Returns up to `count` bytes: fewer only where the file ends. */
  async readAtMost(count) {
    const out = new Uint8Array(count);
    let filled = 0;
    while (filled < count && (await this.#more())) {
      const piece = this.left.subarray(0, count - filled);
      out.set(piece, filled);
      filled += piece.length;
      this.#take(piece);
    }
    return filled < count ? out.slice(0, filled) : out;
  }

  async skip(count) {
    while (count > 0 && (await this.#more())) {
      const piece = this.left.subarray(0, count);
      count -= piece.length;
      this.#take(piece);
    }
  }

  /** Reads on to the end, which is where a compressed stream's checksum is compared. */
  async finish() {
    const from = this.position;
    while (await this.#more()) {
      this.#take(this.left);
      if (this.position - from > MAX_TRAILING) {
        await this.close();
        throw new VoxgapError("goes on far beyond what its header claims");
      }
    }
  }

  close() {
    return this.reader.cancel().catch(() => {});
  }

  #take(piece) {
    if (this.checksum !== null) this.checksum = crc32(piece, this.checksum);
    this.position += piece.length;
    this.left = this.left.subarray(piece.length);
  }

  async #more() {
    while (this.left.length === 0) {
      const { done, value } = await this.reader.read();
      if (done) return false;
      this.left = value;
    }
    return true;
  }
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

/** The checksum of ZIP, over a further piece of what `before` is the checksum of. */
export function crc32(piece, before = 0) {
  let sum = ~before;
  for (let i = 0; i < piece.length; i++) sum = TABLE[(sum ^ piece[i]) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}
