/** A NIfTI-1 file of 16-bit labels, where the volume lay, or upright where nobody said. */
export function nifti(labels, { shape, spacing, affine }) {
  const [depth, height, width] = shape;
  const [dz, dy, dx] = spacing ?? [1, 1, 1];
  const rows = affine ?? [
    [0, 0, dx, 0],
    [0, dy, 0, 0],
    [dz, 0, 0, 0],
  ];
  const header = new DataView(new ArrayBuffer(352));
  const int16 = (place, ...values) => values.forEach((v, i) => header.setInt16(place + 2 * i, v, true));
  const real = (place, ...values) => values.forEach((v, i) => header.setFloat32(place + 4 * i, v, true));
  header.setInt32(0, 348, true);
  int16(40, 3, width, height, depth, 1, 1, 1, 1);
  int16(70, 4, 16);
  real(76, 1, dx, dy, dz, 1, 1, 1, 1);
  real(108, 352, 1, 0);
  header.setUint8(123, 2); // millimetres
  int16(252, 0, 2);
  rows.slice(0, 3).forEach(([d, h, w, origin], i) => real(280 + 16 * i, w, h, d, origin));
  [0x6e, 0x2b, 0x31].forEach((letter, i) => header.setUint8(344 + i, letter));
  return new Blob([header, labels]);
}
