/** Bundles the page into a folder: `node build.js OUT`. Packages come from node_modules. */

import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";

import { build } from "esbuild";

const [out] = process.argv.slice(2);
const packages = path.resolve("node_modules");
const ORT = "onnxruntime-web/dist/ort-wasm-simd-threaded";
const RUNTIME = [
  ...[".mjs", ".wasm"].map((end) => `${ORT}${end}`),
  "@cornerstonejs/codec-openjpeg/dist/openjpegwasm_decode.wasm",
  "@cornerstonejs/codec-charls/dist/charlswasm_decode.wasm",
];
const NODE_ONLY = { // branches for Node in packages
  name: "node-only",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(zlib|fs|path|crypto|module)$/ }, ({ path }) => ({ path, namespace: "empty" }));
    onLoad({ filter: /.*/, namespace: "empty" }, () => ({ contents: "module.exports = {};" }));
  },
};

const { metafile } = await build({
  entryPoints: ["page.js", "reader.js"],
  outdir: out,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  chunkNames: "chunks/[name]-[hash]",
  conditions: ["onnxruntime-web-use-extern-wasm"],
  plugins: [NODE_ONLY],
  metafile: true,
});
await mkdir(path.join(out, "runtime"), { recursive: true });
for (const file of RUNTIME) await cp(path.join(packages, file), path.join(out, "runtime", path.basename(file)));
for (const file of ["index.html", "page.css", "icon.svg", "sw.js"]) await cp(file, path.join(out, file));

const names = [...Object.keys(metafile.inputs), ...RUNTIME.map((file) => `node_modules/${file}`)]
  .map((file) => file.match(/node_modules\/((@[^/]+\/)?[^/]+)/)?.[1])
  .filter(Boolean);
const texts = [];
for (const name of [...new Set(names)].sort()) {
  const folder = path.join(packages, name);
  const { version, license } = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((one) => /^licen[cs]e/i.test(one));
  texts.push(`${name} ${version} (${license})\n\n${file ? await readFile(path.join(folder, file), "utf8") : ""}`);
}
await writeFile(path.join(out, "licenses.txt"), texts.join("\n----\n\n"));
