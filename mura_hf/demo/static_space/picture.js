/** Reads one file into gray levels: PNG exactly, JPEG, WebP and others by the browser, DICOM in `dicom.js`. */

import { decode as decodePng } from "fast-png";

import { looksLikeDicom, readDicom } from "./dicom.js";
import { windowPercentiles } from "./windowing.js";

const MAX_BYTES = 256 * 2 ** 20;
const MAX_PIXELS = 40e6;
const MAX_ASPECT = 12;

/** @type {[RegExp, string, string][]} Beginnings of files that no browser reads, what they are, and what to do. */
const REFUSED = [
  [/^(II[*+]\0|MM\0[*+])/, "TIFF, which the browser cannot read", "save it as PNG with 16 bits"],
  [/^.{4}ftyp(hei|hev|mif1|msf1)/s, "HEIC, which is not supported", "save it as JPEG or PNG"],
  [/^%PDF/, "a PDF", "export the picture as PNG"],
  [/^(PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b)/, "an archive", "unpack it"],
  [/^GIF8/, "GIF, which is not supported", "save it as PNG"],
];

/** A file that cannot be read; its message names the file, the problem and the way out. */
export class PictureError extends Error {
  constructor(name, problem) {
    super(`${name} ${problem}`);
  }
}

/**
 * Reads one view: `levels`, gray `[height * width]` with bone bright, `warnings`, and what the file says about the
 * `patient`, the `side` and the body `part`, or null. `parts` as in `readDicom`. @param {Blob} file
 */
export async function readPicture(file, name, parts) {
  if (file.size > MAX_BYTES) throw new PictureError(name, "is larger than 256 MiB; export the single view.");
  if (file.size === 0) throw new PictureError(name, "is empty; copy the file again.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const found = looksLikeDicom(bytes)
    ? await readDicom(bytes, name, parts)
    : { warnings: [], patient: null, side: null, part: null, ...(await decodePicture(bytes, file, name)) };
  checkSize(found.height, found.width, name);
  if (found.levels.every((level) => level === found.levels[0])) {
    throw new PictureError(name, "has the same gray level everywhere, so it shows nothing; check the export.");
  }
  return found;
}

export function checkSize(height, width, name) {
  if (height * width > MAX_PIXELS) {
    throw new PictureError(name, `(${width} x ${height}) has more than 40 megapixels; export it smaller.`);
  }
  if (Math.min(height, width) < 16) {
    throw new PictureError(name, `has only ${width} x ${height} pixels; give the radiograph itself.`);
  }
  if (Math.max(height, width) > MAX_ASPECT * Math.min(height, width)) {
    throw new PictureError(name, `has ${width} x ${height} pixels, unlike any radiograph; check the file.`);
  }
}

async function decodePicture(bytes, file, name) {
  const head = String.fromCharCode(...bytes.subarray(0, 512));
  const refused = REFUSED.find(([beginning]) => beginning.test(head));
  if (refused) throw new PictureError(name, `is ${refused[1]}; ${refused[2]}.`);
  if (head.startsWith("\x89PNG")) {
    const header = new DataView(bytes.buffer, bytes.byteOffset);
    checkSize(header.getUint32(20), header.getUint32(16), name);
    const depth = bytes[24];
    const isTurned = findChunk(bytes, "eXIf"); // the browser turns it
    try {
      if (!isTurned || depth === 16) return toGray(decodePng(bytes));
    } catch {
      if (depth === 16) throw new PictureError(name, "is damaged or cut short; copy or export it again.");
    }
  }
  try {
    return await decodeInBrowser(file, { name });
  } catch (error) {
    if (error instanceof PictureError) throw error;
    throw new PictureError(name, "is not a PNG, JPEG, WebP, BMP or DICOM file, or damaged; export it again.");
  }
}

function findChunk(bytes, wanted) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let place = 8; place + 12 <= bytes.length; place += 12 + view.getUint32(place)) {
    const kind = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    if (kind === wanted || kind === "IDAT") return kind === wanted;
  }
  return false;
}

/** Gray levels of a decoded PNG: palettes are looked up, colours become luminance, transparency is dropped. */
function toGray({ width, height, data, depth, channels, palette }) {
  let values = data;
  if (depth < 8 || palette) values = unpack(data, width, height, depth, palette);
  const colours = palette ? 3 : channels;
  if (colours > 2) values = luminance(values, colours);
  else if (colours === 2) values = values.filter((_, place) => place % 2 === 0);
  return { width, height, levels: depth === 16 ? windowPercentiles(values) : Uint8Array.from(values) };
}

/** Pixels of 1, 2, 4 or 8 bits as gray levels, or as colours of a palette. Rows start at whole bytes. */
function unpack(data, width, height, depth, palette) {
  const perRow = Math.ceil((width * depth) / 8);
  const top = 2 ** depth - 1;
  const found = new Uint8Array(width * height * (palette ? 3 : 1));
  for (let place = 0; place < width * height; place++) {
    const [row, bit] = [Math.floor(place / width), (place % width) * depth];
    const value = (data[row * perRow + (bit >> 3)] >> (8 - depth - (bit & 7))) & top;
    if (palette) found.set(palette[value] ?? [0, 0, 0], 3 * place);
    else found[place] = (value * 255) / top;
  }
  return found;
}

/** Luminance as Pillow computes it (8 bits) or OpenCV (16 bits). */
export function luminance(values, channels) {
  const found = new values.constructor(values.length / channels);
  for (let place = 0; place < found.length; place++) {
    const start = place * channels;
    found[place] = (values[start] * 19595 + values[start + 1] * 38470 + values[start + 2] * 7471 + 32768) / 65536;
  }
  return found;
}

/** Decodes a file with the browser, turned as its EXIF data say. */
export async function decodeInBrowser(blob, { color = false, name = "the image" } = {}) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  try {
    checkSize(height, width, name);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    return color ? { data, width, height } : { levels: luminance(new Uint8Array(data.buffer), 4), width, height };
  } finally {
    bitmap.close();
  }
}
