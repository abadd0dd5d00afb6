/** The files of one patient: one that holds all channels, or one for each, matched by their names. */

/**
 * @typedef {{files: (?File)[], perChannel: boolean}} Patient one file (of a series, several), or one for each
 *   channel of the network, null where it is missing
 */

/** @returns {Patient} of a file that holds all channels, or of the files of a series */
export const inOne = (files) => ({ files, perChannel: false });

/** How a patient is called: after the files that are there. */
export const nameOf = ({ files }) => {
  const names = files.filter(Boolean).map((file) => file.name);
  return names.length > 4 ? `${names[0]} and ${names.length - 1} more` : names.join(", ");
};

const words = (name) => name.normalize("NFKC").toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

/** How many words of the channel's name stand in the file's, in a row; 0 unless all do. */
function common(file, channel) {
  const at = (start) => channel.every((word, i) => file[start + i] === word);
  return channel.length && file.some((_, start) => at(start)) ? channel.length : 0;
}

/**
 * The file for each channel: the one whose name holds the channel's, as `sub-01_FLAIR.nii.gz` holds `flair`. Where
 * several do, or a file could be two channels, nobody is asked to trust a guess: it is null.
 *
 * @param {{name: string}[]} files
 * @param {string[]} channels
 */
export function matched(files, channels) {
  const known = channels.map(words);
  const meant = files.map((file) => {
    const found = known.map((channel) => common(words(file.name), channel));
    const most = Math.max(...found);
    return most && found.indexOf(most) === found.lastIndexOf(most) ? found.indexOf(most) : null;
  });
  return channels.map((_, index) => {
    const own = files.filter((_, i) => meant[i] === index);
    return own.length === 1 ? own[0] : null;
  });
}
