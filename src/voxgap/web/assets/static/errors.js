/** What a person can mend: one line that names the file and the remedy, and perhaps a command that mends it. */
export class VoxgapError extends Error {
  constructor(message, command = "") {
    super(message);
    this.command = command;
  }
}

/** Turns whatever reading a file throws into one line that names it. */
export function oneLine(name, error) {
  if (error instanceof VoxgapError) return error;
  const reason = String(error?.message ?? error).split(/\s+/).join(" ").slice(0, 200);
  return new VoxgapError(`${name}: can't be read, damaged or of another format (${reason})`);
}
