/** Reads one DICOM file into gray levels, with the rules of `mura_hf/radiographs`. Identity is only compared. */

import dicomParser from "dicom-parser";

import { PictureError, checkSize, decodeInBrowser, luminance } from "./picture.js";
import { grayLevels, paletteLevels } from "./windowing.js";

const IMPLICIT = "1.2.840.10008.1.2";
const EXPLICIT = "1.2.840.10008.1.2.1";
const BIG = "1.2.840.10008.1.2.2";
const RLE = "1.2.840.10008.1.2.5";
const JPEG = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"];
const LOSSLESS = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
const JPEG_LS = ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"];
const JPEG_2000 = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];
const NATIVE = [IMPLICIT, EXPLICIT, BIG];
const READABLE = [...NATIVE, RLE, ...JPEG, ...LOSSLESS, ...JPEG_LS, ...JPEG_2000];

const RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"; // computed; with .1 digital, with .1.1 not yet processed
const CAPTURE = "1.2.840.10008.5.1.4.1.1.7";

/** Whether the content of a file is DICOM, with or without its prefix. @param {Uint8Array} bytes */
export function looksLikeDicom(bytes) {
  return hasPrefix(bytes) || (bytes.length > 132 && [2, 8].includes(bytes[0]) && bytes[1] === 0 && bytes[3] === 0);
}

const hasPrefix = (bytes) => String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";

/** `parts` has words for body parts, and for parts that are none of ours. @param {Uint8Array} bytes */
export async function readDicom(bytes, name, parts) {
  let data;
  try {
    data = parse(bytes);
  } catch {
    throw new PictureError(name, "is DICOM, but its elements cannot be parsed; export it again, or as PNG.");
  }
  const syntax = (data.string("x00020010") ?? data.elements.x00020010?.Value ?? EXPLICIT).replace(/[\0 ]+$/, "");
  checkKind(data, syntax, name);
  const layout = readLayout(data, syntax, name);
  const notes = [];
  if (layout.frames > 1) notes.push(`has ${layout.frames} frames; only the first was read.`);
  if (word(data, "x00080016") === `${RADIOGRAPHY}.1.1` || word(data, "x00080068") === "FOR PROCESSING") {
    notes.push("holds raw detector values, not yet processed for display; predictions may mislead.");
  }
  const stored = await readStored(bytes, data, layout, name).catch((error) => {
    if (error instanceof PictureError) throw error;
    throw new PictureError(name, "is damaged: its pixels cannot be decoded; copy or export it again.");
  });
  const found = toLevels(data, stored, layout);
  if (!found.levels) throw new PictureError(name, "has no usable colour palette; export it as MONOCHROME2 or as PNG.");
  const side = word(data, "x00200062") || word(data, "x00200060");
  const region = data.elements.x00082218?.items?.[0]?.dataSet;
  return {
    levels: found.levels,
    height: layout.rows,
    width: layout.columns,
    warnings: [...new Set([...notes, ...found.notes])].map((note) => `${name} ${note}`),
    patient: (text(data, "x00100020") || "").replace(/[\0\s]+/g, " ").trim() || null,
    side: { L: "left", R: "right" }[side] ?? null,
    part: findPart(text(data, "x00180015") || (region && text(region, "x00080104")) || "", parts),
  };
}

function parse(bytes) {
  if (hasPrefix(bytes)) return dicomParser.parseDicom(bytes);
  const isExplicit = /^[A-Z]{2}$/.test(String.fromCharCode(bytes[4], bytes[5]));
  return dicomParser.parseDicom(bytes, { TransferSyntaxUID: isExplicit ? EXPLICIT : IMPLICIT });
}

function text(data, tag) {
  try {
    return data.string(tag);
  } catch {
    return undefined;
  }
}

const word = (data, tag) => (text(data, tag) ?? "").replace(/\0/g, "").trim().toUpperCase();
const toNumber = (part) => Number(part.trim().replace(",", ".") || NaN);
const numbers = (data, tag) => (text(data, tag) ?? "").split("\\").map(toNumber);
const integer = (data, tag) => (data.elements[tag]?.length >= 2 ? data.uint16(tag) : undefined);

/** 16-bit words of an element of any kind. */
function words(data, tag, isBig) {
  const element = data.elements[tag];
  if (!element) return [];
  const { buffer, byteOffset } = data.byteArray;
  const view = new DataView(buffer, byteOffset + element.dataOffset, element.length & ~1);
  return Uint16Array.from({ length: view.byteLength / 2 }, (_, place) => view.getUint16(2 * place, !isBig));
}

function checkKind(data, syntax, name) {
  if (!READABLE.includes(syntax)) {
    const what = syntax === "1.2.840.10008.1.2.1.99" ? "deflated DICOM" : "DICOM with an unsupported compression";
    throw new PictureError(name, `is ${what}; export it uncompressed, or as PNG.`);
  }
  const storage = (text(data, "x00080016") ?? text(data, "x00020002") ?? "").replace(/[\0 ]+$/, "");
  const modality = word(data, "x00080060");
  const isCapture = storage.startsWith(CAPTURE);
  const isRadiography = [RADIOGRAPHY, `${RADIOGRAPHY}.1`, `${RADIOGRAPHY}.1.1`].includes(storage);
  const isOther = storage !== "" && !isCapture && !isRadiography && storage.startsWith("1.2.840.10008.");
  const allowed = ["CR", "DX", "RG", ...(isCapture ? ["OT", "SC", ""] : isRadiography ? [""] : [])];
  if (isOther || !allowed.includes(modality)) {
    const what = !isOther && modality === "" ? "DICOM that does not say what it shows" : "another kind of image";
    throw new PictureError(name, `is not a radiograph but ${what}; give computed or digital radiographs (CR, DX).`);
  }
}

function readLayout(data, syntax, name) {
  const [rows, columns] = [integer(data, "x00280010") ?? 0, integer(data, "x00280011") ?? 0];
  if (!rows || !columns || !data.elements.x7fe00010) {
    throw new PictureError(name, "is a DICOM file without an image; export the radiograph itself.");
  }
  checkSize(rows, columns, name);
  const highBit = integer(data, "x00280102");
  let allocated = integer(data, "x00280100") ?? 0;
  const bits = integer(data, "x00280101") || (highBit ?? -1) + 1 || allocated;
  allocated ||= bits > 8 ? 16 : 8;
  if (![8, 16].includes(allocated) || bits < 1 || bits > allocated) {
    throw new PictureError(name, "stores its pixels in neither 8 nor 16 bits; export it as PNG with 16 bits.");
  }
  if (highBit !== undefined && highBit !== bits - 1) {
    throw new PictureError(name, "does not store its pixels in the lowest bits; export it again.");
  }
  const samples = integer(data, "x00280002") || 1;
  const photometric = word(data, "x00280004") || (samples === 1 ? "MONOCHROME2" : "RGB");
  const isGray = ["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"].includes(photometric);
  const isPlain = photometric === "RGB" && integer(data, "x00280006") !== 1;
  if (samples !== (isGray ? 1 : 3) || !(isGray || (bits <= 8 && (isPlain || !NATIVE.includes(syntax))))) {
    throw new PictureError(name, "uses an unsupported colour space; export it as MONOCHROME2 or as PNG.");
  }
  const frames = Math.max(1, Number(text(data, "x00280008")) || 1);
  const signed = integer(data, "x00280103") === 1;
  return { syntax, rows, columns, allocated, bits, samples, photometric, frames, signed, precision: bits };
}

/** Bit patterns of the first frame, or its luminance if it has colours. */
async function readStored(bytes, data, layout, name) {
  const { rows, columns, samples, allocated, syntax, photometric } = layout;
  const element = data.elements.x7fe00010;
  const size = rows * columns * samples;
  let stored;
  if (NATIVE.includes(syntax)) {
    const start = bytes.byteOffset + element.dataOffset;
    if (element.length < (size * allocated) / 8 || start + (size * allocated) / 8 > bytes.buffer.byteLength) {
      throw new PictureError(name, "was cut short within its pixels; copy or export it again.");
    }
    stored = new Uint8Array(bytes.buffer, start, (size * allocated) / 8);
    if (allocated === 16) stored = words(data, "x7fe00010", syntax === BIG).subarray(0, size);
  } else {
    stored = await decode(readFrame(data, element, layout.frames), layout);
  }
  if (stored.length !== size) throw new Error("the decoded image has another size");
  const top = 2 ** layout.bits - 1;
  const hasLuminance = photometric.startsWith("YBR_FULL") && !JPEG.includes(syntax); // the browser gives RGB
  if (samples > 1) return hasLuminance ? stored.filter((_, place) => place % 3 === 0) : luminance(stored, 3);
  return (layout.bits <= 8 ? Uint8Array : Uint16Array).from(stored, (value) => value & top);
}

function readFrame(data, element, frames) {
  const { fragments, basicOffsetTable } = element;
  if (!fragments?.length) throw new Error("the pixels are not compressed");
  if (basicOffsetTable?.length > 1) return dicomParser.readEncapsulatedImageFrame(data, element, 0);
  return dicomParser.readEncapsulatedPixelDataFromFragments(data, element, 0, frames > 1 ? 1 : fragments.length);
}

async function decode(coded, layout) {
  const { syntax, allocated, samples } = layout;
  if (syntax === RLE) return decodeRle(coded, layout);
  if (JPEG.includes(syntax)) {
    const { data } = await decodeInBrowser(new Blob([coded], { type: "image/jpeg" }), { color: true });
    return data.filter((_, place) => place % 4 < samples);
  }
  if (LOSSLESS.includes(syntax)) {
    const { Decoder } = await import("jpeg-lossless-decoder-js");
    const found = new Decoder().decompress(coded.buffer, coded.byteOffset, coded.byteLength);
    return allocated === 8 ? new Uint8Array(found) : new Uint16Array(found);
  }
  const isWavelet = JPEG_2000.includes(syntax);
  const codec = isWavelet
    ? await import("@cornerstonejs/codec-openjpeg/decodewasmjs")
    : await import("@cornerstonejs/codec-charls/decodewasmjs");
  const file = isWavelet ? "openjpegwasm_decode.wasm" : "charlswasm_decode.wasm";
  const module = await codec.default({ locateFile: () => new URL(`runtime/${file}`, self.location).href });
  const decoder = isWavelet ? new module.J2KDecoder() : new module.JpegLSDecoder();
  try {
    decoder.getEncodedBuffer(coded.length).set(coded);
    decoder.decode();
    const decoded = decoder.getDecodedBuffer();
    const info = decoder.getFrameInfo();
    if (info.width !== layout.columns || info.height !== layout.rows) throw new Error("another size");
    layout.precision = Math.min(layout.bits, info.bitsPerSample);
    const copy = decoded.slice();
    return info.bitsPerSample > 8 ? new Uint16Array(copy.buffer) : copy;
  } finally {
    decoder.delete();
  }
}

/** RLE (PS3.5 annex G): a segment for each byte of a sample, the highest byte first. */
function decodeRle(coded, { rows, columns, samples, allocated }) {
  const [view, width] = [new DataView(coded.buffer, coded.byteOffset, coded.length), allocated / 8];
  const step = samples * width;
  if (view.getUint32(0, true) !== step) throw new Error("another number of segments");
  const found = new Uint8Array(rows * columns * step);
  for (let segment = 0; segment < step; segment++) {
    let place = view.getUint32(4 + 4 * segment, true);
    for (let target = segment + width - 1 - 2 * (segment % width); target < found.length; ) {
      const head = view.getInt8(place++); // beyond the end it throws, as all reads of a view
      for (let left = head === -128 ? 0 : Math.abs(head) + 1; left > 0; left--, target += step) {
        found[target] = view.getUint8(head < 0 ? place : place++);
      }
      if (head < 0 && head !== -128) place++;
    }
  }
  return allocated === 16 ? new Uint16Array(found.buffer) : found;
}

function toLevels(data, stored, layout) {
  if (layout.samples > 1) return { levels: Uint8Array.from(stored), notes: [] };
  const isBig = layout.syntax === BIG;
  const table = (item, descriptor, content) => {
    const description = [...words(item, descriptor, isBig)].slice(0, 3);
    const element = item.elements[content];
    const isNarrow = element?.length < 2 * (description[0] || 65536);
    const start = item.byteArray.byteOffset + (element?.dataOffset ?? 0);
    const data = isNarrow ? new Uint8Array(item.byteArray.buffer, start, element.length) : words(item, content, isBig);
    return { descriptor: description, data };
  };
  const items = (tag) => data.elements[tag]?.items ?? [];
  const tables = (tag) => items(tag).map(({ dataSet }) => table(dataSet, "x00283002", "x00283006"));
  if (layout.photometric === "PALETTE COLOR") {
    const palettes = [1, 2, 3].map((colour) => table(data, `x0028110${colour}`, `x0028120${colour}`));
    return { levels: paletteLevels(stored, layout, palettes), notes: [] };
  }
  return grayLevels(stored, layout, {
    inverted: layout.photometric === "MONOCHROME1" || word(data, "x20500020") === "INVERSE",
    slope: numbers(data, "x00281053")[0],
    intercept: numbers(data, "x00281052")[0],
    centers: numbers(data, "x00281050"),
    widths: numbers(data, "x00281051"),
    windowFunction: word(data, "x00281056"),
    modalityTables: tables("x00283000"),
    voiTables: tables("x00283010"),
    padding: ["x00280120", "x00280121"].flatMap((tag) => [...words(data, tag, isBig)].slice(0, 1)),
  });
}

/** The body part that a text names, as `mura_hf.radiographs.radiograph.find_body_part`. */
function findPart(named, { words: known, others }) {
  const found = named.slice(0, 64).toUpperCase().replace(/[^A-Z]+/g, " ").trim().split(" ");
  const joined = found.slice(1).map((second, place) => found[place] + second);
  const bare = (one) => [one, one.replace(/^(LEFT|RIGHT|LT|RT|L|R)/, ""), one.replace(/(LEFT|RIGHT|LT|RT|L|R)$/, "")];
  const forms = [...found, ...joined].map((one) => bare(one).find((form) => form in known));
  const parts = new Set(forms.filter(Boolean).map((form) => known[form]));
  return parts.size === 1 && !found.some((one) => others.includes(one)) ? [...parts][0] : null;
}
