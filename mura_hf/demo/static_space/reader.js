/** The worker: reads files and runs the graph, so that the page stays responsive. Nothing leaves it but results. */

import * as ort from "onnxruntime-web/wasm";

import { PictureError, readPicture } from "./picture.js";
import { findRegions, softmax } from "./study.js";

const MAX_SHOWN = 1600; // pixels of the longer side on the page

let page, session;

self.onmessage = ({ data: { call, id, ...values } }) => {
  ({ start, read })[call](values).then(
    (result) => self.postMessage({ id, result }, result.transfer ?? []),
    (error) => self.postMessage({ id, error: error.message }),
  );
};

/** Loads the runtime and the graph. WebGPU is not used: its build of the runtime cannot do all of the preprocessing. */
async function start(values) {
  page = values.page;
  const graph = await download("onnx/model.onnx");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.wasmPaths = { mjs: new URL("runtime/ort-wasm-simd-threaded.mjs", self.location).href };
  ort.env.wasm.wasmBinary = (await download("runtime/ort-wasm-simd-threaded.wasm")).buffer;
  session = await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"],
    enableCpuMemArena: false, // memory follows the size of the picture instead of its maximum
    enableMemPattern: false,
  });
  return { threads: ort.env.wasm.numThreads };
}

async function download(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} cannot be loaded (${response.status}); reload the page.`);
  const content = new Uint8Array(page.sizes[file]);
  let length = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    content.set(value, length);
    length += value.length;
    self.postMessage({ progress: { file, length } });
  }
  if (length !== content.length) throw new Error(`${file} is incomplete; reload the page.`);
  return content;
}

/** Reads the files of one study, {name, blob}; `pictures` says whether to draw film and heatmap. */
async function read({ files, pictures }) {
  const [views, problems] = [[], []];
  for (const file of files) {
    try {
      views.push(await readView(file, pictures));
    } catch (error) {
      const isKnown = error instanceof PictureError;
      problems.push(isKnown ? error.message : `${file.name} cannot be read: ${error.message ?? error}`);
    }
  }
  return { views, problems, transfer: views.flatMap(({ film, heat }) => [film, heat].filter(Boolean)) };
}

async function readView({ name, blob }, pictures) {
  const { levels, height, width, warnings, patient, side, part } = await readPicture(blob, name, page.parts);
  const image = new ort.Tensor("uint8", levels, [height, width]);
  const wanted = session.outputNames.filter((output) => output !== "code" && (pictures || output !== "heatmap"));
  const outputs = await session.run({ image }, wanted);
  image.dispose();
  const list = (output) => (outputs[output] ? [...outputs[output].data].map(Number) : null);
  const chances = (output) => (outputs[output] ? softmax(list(output)) : null);
  const logits = list("member_logits");
  const view = {
    name, height, width, warnings, patient, side, part,
    digest: digest(levels, width),
    probability: list("probability")[0],
    logits: list("logits"),
    memberLogits: logits.flatMap((_, place) => (place % 2 ? [] : [logits.slice(place, place + 2)])),
    attentionScores: list("attention_scores"),
    bodyPart: chances("body_part_logits"),
    region: chances("region_logits"),
    finding: chances("finding_logits"),
    oodScores: list("ood_scores"),
    regions: [],
  };
  if (pictures) {
    view.film = draw(levels, height, width, (level) => (0xff000000 | (level << 16) | (level << 8) | level) >>> 0);
    const heatmap = outputs.heatmap?.data;
    if (heatmap) {
      view.regions = findRegions(heatmap, height, width, page.study.box_threshold);
      view.heat = draw(heatmap, height, width, (heat) => page.inferno[Math.round(heat * 255)]);
    }
  }
  Object.values(outputs).forEach((output) => output.dispose());
  return view;
}

/** A picture of at most `MAX_SHOWN` pixels a side; `colour` gives the bytes R, G, B, A as a little-endian number. */
function draw(values, height, width, colour) {
  const step = Math.max(1, Math.ceil(Math.max(height, width) / MAX_SHOWN));
  const [rows, columns] = [Math.floor(height / step), Math.floor(width / step)];
  const pixels = new Uint32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let total = 0;
      for (let down = 0; down < step; down++) {
        const start = (row * step + down) * width + column * step;
        for (let across = 0; across < step; across++) total += values[start + across];
      }
      pixels[row * columns + column] = colour(total / (step * step));
    }
  }
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), columns, rows), 0, 0);
  return canvas.transferToImageBitmap();
}

/** FNV-1a, to notice the same picture twice. */
function digest(levels, width) {
  let hash = 2166136261 ^ width;
  for (let place = 0; place < levels.length; place++) hash = Math.imul(hash ^ levels[place], 16777619);
  return hash >>> 0;
}
