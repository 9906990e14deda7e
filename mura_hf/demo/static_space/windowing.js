/**
 * From stored values to display values in [0, 1], with the rules of `mura_hf/radiographs/windowing.py`.
 *
 * A pixel stores at most 16 bits. So every step maps the table of all 256 or 65,536 possible values, and the image
 * itself is looked up once at the end.
 */

const LOW_SHARE = 0.001; // of the pixels below and above the percentile window
const HIGH_SHARE = 0.999;
const MIN_LEVELS = 16; // a window must leave as many gray levels,
const MIN_BETWEEN = 0.02; // and this share of the pixels neither black nor white
const MAX_WINDOWS = 8;

/** Counts how often each value occurs. @param {Uint8Array | Uint16Array} stored @returns {Float64Array} */
function countValues(stored) {
  const counts = new Float64Array(1 << (8 * stored.BYTES_PER_ELEMENT));
  for (let place = 0; place < stored.length; place++) counts[stored[place]]++;
  return counts;
}

/** The 0.1 and 99.9 percentiles of stored values with meanings and counts; minimum and maximum if these are equal. */
function findPercentiles(table, counts) {
  const order = [...counts.keys()].filter((value) => counts[value] > 0).sort((a, b) => table[a] - table[b]);
  let total = 0;
  const last = order.map((value) => (total += counts[value]) - 1); // rank of the last pixel of each value
  const valueAt = (rank) => table[order[last.findIndex((end) => end >= rank)]];
  const [low, high] = [LOW_SHARE, HIGH_SHARE].map((share) => {
    const rank = share * (total - 1);
    const below = valueAt(Math.floor(rank));
    return below + (valueAt(Math.ceil(rank)) - below) * (rank - Math.floor(rank));
  });
  return high > low ? [low, high] : [table[order[0]], table[order[order.length - 1]]];
}

/** Maps [low, high] to [0, 1] and clips the rest. @returns {Float32Array} */
function scale(table, low, high) {
  if (high <= low) return new Float32Array(table.length);
  const [start, range] = [Math.fround(low), Math.fround(high - low)];
  return Float32Array.from(table, (value) => clip(Math.fround(Math.fround(value) - start) / range));
}

/** Windows an image of more than 8 bits by its percentiles. @returns {Uint8Array} gray levels */
export function windowPercentiles(stored) {
  const counts = countValues(stored);
  const table = Float64Array.from(counts.keys());
  return lookUp(stored, scale(table, ...findPercentiles(table, counts)));
}

/** Gray levels 0 to 255 of stored values, given the display value of each. */
function lookUp(stored, tones) {
  const levels = Uint8Array.from(tones, (tone) => roundHalfEven(Math.fround(tone * 255)));
  return Uint8Array.from(stored, (value) => levels[value]);
}

/**
 * Gray levels of a DICOM image: modality LUT or rescaling, then a VOI LUT or else a window, then inversion.
 *
 * @param {Uint8Array | Uint16Array} stored Bit patterns.
 * @param {{precision: number, bits: number, signed: boolean}} layout
 * @param {object} header Elements that say how pixels are shown; `padding` has bit patterns.
 */
export function grayLevels(stored, layout, header) {
  const notes = [];
  const counts = countValues(stored);
  const numbers = findNumbers(counts.length, layout);
  const { values, limits } = applyModality(header, numbers, layout, notes);
  const padding = findPadding(header.padding, numbers, counts, layout);
  const seen = counts.map((count, place) => (padding[place] ? 0 : count));
  const byPercentiles = scale(values, ...findPercentiles(values, seen));
  const windows = applyWindows(header, values, limits, notes).slice(0, MAX_WINDOWS);
  const chosen = windows.findIndex((windowed) => leavesEnough(windowed, byPercentiles, seen));
  const leaveNothing = windows.length > 0 && chosen !== 0; // the first
  if (leaveNothing) {
    const used = chosen > 0 ? "next one was" : "percentiles of its pixels were";
    notes.push(`specifies a window that shows next to nothing of the picture; the ${used} used instead.`);
  }
  const others = leaveNothing || layout.bits > 8 ? byPercentiles : scale(values, ...limits);
  const shown = Float32Array.from(windows[chosen] ?? others, (tone, place) => {
    const clipped = Math.fround(clip(tone));
    return padding[place] ? 0 : header.inverted ? Math.fround(1 - clipped) : clipped;
  });
  return { levels: lookUp(stored, shown), notes };
}

/** Gray levels of stored values whose colours are in three tables; null if a table does not fit. */
export function paletteLevels(stored, layout, palettes) {
  const numbers = findNumbers(1 << (8 * stored.BYTES_PER_ELEMENT), layout);
  const found = palettes.map((table) => lookUpTable(table, numbers, findLimits(layout)));
  if (!found.every(Boolean)) return null;
  const [red, green, blue] = found.map(([table]) => table);
  const top = Math.max(...found.map(([, largest]) => largest));
  const tones = red.map((value, place) => clip((0.299 * value + 0.587 * green[place] + 0.114 * blue[place]) / top));
  return lookUp(stored, Float32Array.from(tones));
}

/** The number that each bit pattern means. */
function findNumbers(length, { precision, signed }) {
  const half = signed ? 2 ** (precision - 1) : Infinity;
  return Float64Array.from({ length }, (_, value) => (value >= half ? value - 2 * half : value));
}

const findLimits = ({ bits, signed }) => [0, 2 ** bits - 1].map((end) => end - (signed ? 2 ** (bits - 1) : 0));

function applyModality(header, numbers, layout, notes) {
  const limits = findLimits(layout);
  const [table] = lookUpTables(header.modalityTables, numbers, limits, notes);
  if (table) return { values: table[0], limits: [0, table[1]] };
  const { slope, intercept } = header;
  const isUsable = Math.abs(slope) > 1e-12 && Math.abs(slope) + Math.abs(intercept) < 1e12; // false if one is missing
  if (!isUsable) return { values: numbers, limits };
  const scaled = limits.map((limit) => limit * slope + intercept).sort((a, b) => a - b);
  return { values: numbers.map((value) => value * slope + intercept), limits: scaled };
}

/** The values after each usable VOI LUT, then after each usable window. */
function applyWindows(header, values, limits, notes) {
  const tables = lookUpTables(header.voiTables, values.map(roundHalfEven), limits, notes);
  const found = tables.map(([table, largest]) => table.map((value) => value / largest));
  const name = ["LINEAR_EXACT", "SIGMOID"].includes(header.windowFunction) ? header.windowFunction : "LINEAR";
  for (let place = 0; place < Math.min(header.centers.length, header.widths.length); place++) {
    const [center, width] = [header.centers[place], header.widths[place]];
    if (!Number.isFinite(center + width) || !(name === "LINEAR" ? width >= 1 : width > 0)) continue;
    found.push(values.map((value) => WINDOWS[name](value, center, width)));
  }
  return found;
}

const WINDOWS = {
  // PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1
  LINEAR(value, center, width) {
    if (value <= center - 0.5 - (width - 1) / 2) return 0;
    if (value > center - 0.5 + (width - 1) / 2) return 1;
    return (value - (center - 0.5)) / Math.max(width - 1, 1e-9) + 0.5;
  },
  LINEAR_EXACT: (value, center, width) => clip((value - center) / width + 0.5),
  SIGMOID: (value, center, width) => 1 / (1 + Math.exp((-4 * (value - center)) / width)),
};

/** Whether a window leaves enough gray levels, and enough pixels between black and white. */
function leavesEnough(tones, byPercentiles, counts) {
  const [here, there] = [tones, byPercentiles].map((table) => {
    const levels = new Float64Array(256);
    table.forEach((tone, place) => (levels[roundHalfEven(255 * clip(tone))] += counts[place]));
    const total = levels.reduce((sum, count) => sum + count, 0);
    const between = levels.slice(1, 255).reduce((sum, count) => sum + count, 0);
    return { levels: levels.filter((count) => count > 0).length, between: between / total };
  });
  const enoughLevels = here.levels >= Math.min(MIN_LEVELS, there.levels / 2);
  return enoughLevels && here.between >= Math.min(MIN_BETWEEN, there.between / 2);
}

/** Whether each bit pattern is padding (PS3.3 C.7.5.1.1.2), which is ignored if it leaves less than two others. */
function findPadding(words, numbers, counts, { precision, signed }) {
  const ends = words.map((word) => {
    const above = word >> precision;
    const sign = (word >> (precision - 1)) & 1;
    const isSigned = signed && sign && above === 65535 >> precision;
    return above && !isSigned ? NaN : numbers[word & (2 ** precision - 1)];
  });
  const [low, high] = [Math.min(...ends), Math.max(...ends)]; // NaN if an end is; infinite if there is none
  const padding = Array.from(numbers, (value) => ends.length > 0 && value >= low && value <= high);
  const others = padding.filter((isPadding, place) => !isPadding && counts[place] > 0);
  return others.length > 1 ? padding : padding.fill(false);
}

function lookUpTables(tables, values, limits, notes) {
  const found = tables.map((table) => lookUpTable(table, values, limits));
  if (!found.every(Boolean)) notes.push("contains a lookup table that does not fit its description; it was ignored.");
  return found.filter(Boolean);
}

/** Maps values through a table (PS3.3 C.11.1.1.1); returns also the largest value that its bits can hold. */
function lookUpTable({ descriptor, data }, values, limits) {
  let [entries = 0, first = 0, bits = 0] = descriptor;
  entries ||= 65536;
  if (descriptor.length === 0 || data.length < entries) return null;
  const covered = (start) => Math.min(limits[1], start + entries - 1) - Math.max(limits[0], start);
  if (first > 32767 && covered(first - 65536) > covered(first)) first -= 65536; // the pattern of a negative number
  let top = 0;
  for (let place = 0; place < entries; place++) top = Math.max(top, data[place]);
  bits = Math.min(bits, 16);
  if (!(top < 2 ** bits && 2 ** bits <= 4 * top)) bits = Math.max(8, top.toString(2).length); // wrong in many files
  const mapped = values.map((value) => data[Math.trunc(Math.min(Math.max(value - first, 0), entries - 1))]);
  return [mapped, 2 ** bits - 1];
}

const clip = (value) => Math.min(Math.max(value, 0), 1);

/** Rounds as numpy does: halves to the even neighbour. */
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
