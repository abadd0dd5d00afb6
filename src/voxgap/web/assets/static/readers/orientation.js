/** Which way a scan lies: its axes turned to the closest canonical orientation, as nibabel finds it. */
import { VoxgapError } from "../errors.js";

/**
 * @param {number[][]} affine 4 rows; takes (depth, height, width, 1) to (x, y, z, 1)
 * @param {number[]} shape of the three stored axes
 * @returns {{order: number[], flipped: boolean[], affine: number[][]}} for each of depth, height, width the
 *   stored axis that it is and whether it runs backwards, and the affine after that
 */
export function canonical(affine, shape) {
  if (!affine.flat().every(Number.isFinite)) {
    throw new VoxgapError("its affine is not finite; repair the header");
  }
  const lengths = spacingOf(affine);
  const directions = [0, 1, 2].map((row) => lengths.map((length, axis) => affine[row][axis] / length));
  if (!lengths.every(Boolean) || !(Math.abs(determinant(directions)) >= 1e-6)) {
    throw new VoxgapError("its affine gives an axis no direction; repair the header");
  }
  const { follows, sign } = assigned(closestRotation(directions));
  const order = [2, 1, 0].map((world) => follows.indexOf(world));
  const flipped = order.map((axis) => sign[axis] < 0);
  const turned = affine.slice(0, 3).map((row) => {
    const out = [...order.map((axis, place) => (flipped[place] ? -row[axis] : row[axis])), row[3]];
    order.forEach((axis, place) => {
      if (flipped[place]) out[3] += row[axis] * (shape[axis] - 1);
    });
    return out;
  });
  return { order, flipped, affine: [...turned, [0, 0, 0, 1]] };
}

/** The size of a voxel along each axis. */
export const spacingOf = (affine) =>
  [0, 1, 2].map((axis) => Math.sqrt([0, 1, 2].reduce((sum, row) => sum + affine[row][axis] ** 2, 0)));

/** Which of x, y, z each axis follows, the strongest axis first, and whether forwards. */
function assigned(rotation) {
  const strength = [0, 1, 2].map((axis) => Math.max(...rotation.map((row) => row[axis] ** 2)));
  const free = [0, 1, 2];
  const follows = [];
  const sign = [];
  const wanted = (axis) => [...free].sort((a, b) => Math.abs(rotation[b][axis]) - Math.abs(rotation[a][axis]));
  const inTurn = [0, 1, 2].sort((a, b) => strength[b] - strength[a]);
  inTurn.forEach((axis, turn) => {
    const [world, second] = wanted(axis);
    const rivals = inTurn.slice(turn + 1).filter((other) => close(strength[other], strength[axis]));
    const halfway = second !== undefined && close(Math.abs(rotation[second][axis]), Math.abs(rotation[world][axis]));
    if (halfway || rivals.some((other) => wanted(other)[0] === world)) {
      // Python decides by the last bit of its rounding, which no other program can follow.
      throw new VoxgapError('lies halfway between two axes; write it with vg.write("upright.npz", vg.read(FILE))');
    }
    follows[axis] = world;
    sign[axis] = Math.sign(rotation[world][axis]);
    free.splice(free.indexOf(world), 1);
  });
  return { follows, sign };
}

const close = (a, b) => Math.abs(a - b) < 1e-6;

function cofactors(m) {
  return [0, 1, 2].map((i) =>
    [0, 1, 2].map((j) => {
      const [a, b, c, d] = [(i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3];
      return m[a][c] * m[b][d] - m[a][d] * m[b][c];
    }),
  );
}

const determinant = (m) => m[0].reduce((sum, v, j) => sum + v * cofactors(m)[0][j], 0);

/** The orthogonal factor of the polar decomposition, by Newton's iteration (Higham 1986). */
function closestRotation(m) {
  for (let step = 0; step < 60; step++) {
    const size = determinant(m);
    const inverse = cofactors(m); // transposed, which is what the iteration wants
    m = m.map((row, i) => row.map((v, j) => (v + inverse[i][j] / size) / 2));
  }
  return m;
}
