// SPDX-License-Identifier: Apache-2.0
// Load (and run) one graph after the other in the ONNX Runtime of a folder of npm, and print the result of each.
//
//     bin/node _trial.mjs GRAPHS FIRST     one JSON line `[index, "ok"]` or `[index, "message"]` for each
//     bin/node _trial.mjs --about          one JSON line about the package and node
//
// GRAPHS is what `runtimes/_trials.py` writes, its graphs serialised ONNX models. `bin/node` is a link beside
// `node_modules`, which holds onnxruntime-node or onnxruntime-web: the name by which it was called says where. A graph
// that kills the process ends the output; so does one behind which WebAssembly cannot go on.

import { closeSync, existsSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { setFlagsFromString } from "node:v8";

const ROOT = dirname(dirname(resolve(process.argv0)));
const NAME = ["onnxruntime-node", "onnxruntime-web"].find((name) => existsSync(join(ROOT, "node_modules", name)));
const require = createRequire(join(ROOT, "index.js"));
const BROKEN = /abort|unreachable|out of bounds|table index|null function|stack size|memory access/i;
const ARRAYS = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array,
  int64: BigInt64Array, uint64: BigUint64Array, float32: Float32Array, float64: Float64Array, bool: Uint8Array,
};
const CODES = {
  b1: "bool", i1: "int8", u1: "uint8", i2: "int16", u2: "uint16", i4: "int32", u4: "uint32", i8: "int64", u8: "uint64",
  f2: "float16", f4: "float32", f8: "float64",
};

function* records(path) {
  const file = openSync(path, "r");
  const take = (length) => {
    const data = Buffer.alloc(length);
    let read = 0;
    while (read < length) {
      const more = readSync(file, data, read, length - read, null);
      if (more === 0) break;
      read += more;
    }
    return read < length ? null : data;
  };
  for (let head = take(32); head !== null; head = take(32)) {
    const [graph, feeds, expected, millionths] = [0, 8, 16, 24].map((at) => Number(head.readBigUInt64BE(at)));
    yield { graph: take(graph), feeds: take(feeds), expected: take(expected), tolerance: millionths / 1e6 };
  }
  closeSync(file);
}

// Read the arrays of an `.npz` whose members are stored, as `numpy.savez` writes them: {name: {type, dims, data}}.
function readArrays(bytes) {
  const found = {};
  let end = bytes.length - 22;
  while (end >= 0 && bytes.readUInt32LE(end) !== 0x06054b50) end -= 1;
  let at = bytes.readUInt32LE(end + 16);
  for (let count = bytes.readUInt16LE(end + 10); count > 0; count -= 1) {
    const length = bytes.readUInt16LE(at + 28);
    const name = bytes.toString("utf8", at + 46, at + 46 + length);
    const size = bytes.readUInt32LE(at + 24);
    const start = bytes.readUInt32LE(at + 42);
    if (bytes.readUInt16LE(at + 10) !== 0) throw new Error(`${name} is compressed`);
    const from = start + 30 + bytes.readUInt16LE(start + 26) + bytes.readUInt16LE(start + 28);
    found[name.replace(/\.npy$/, "")] = readArray(bytes.subarray(from, from + size));
    at += 46 + length + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  }
  return found;
}

function readArray(bytes) {
  const wide = bytes[6] > 1;
  const length = wide ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8);
  const start = (wide ? 12 : 10) + length;
  const header = bytes.toString("latin1", wide ? 12 : 10, start);
  const [, order, code] = header.match(/'descr': '([<|>=])([a-zA-Z][0-9]+)'/) ?? [];
  if (order === ">" || /'fortran_order': True/.test(header)) throw new Error("an array lies in another order");
  const dims = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((text) => text.trim()).map(Number);
  const raw = new Uint8Array(bytes.subarray(start)).buffer; // a copy, aligned
  if (code.startsWith("U")) return { type: "string", dims, data: readTexts(raw, Number(code.slice(1)), dims) };
  const type = CODES[code];
  if (type === undefined) throw new Error(`an array holds ${code}`);
  return { type, dims, data: type === "float16" ? new Uint16Array(raw) : new ARRAYS[type](raw) };
}

function readTexts(raw, width, dims) {
  const points = new Uint32Array(raw);
  const count = dims.reduce((product, size) => product * size, 1);
  return Array.from({ length: count }, (_, index) =>
    String.fromCodePoint(...points.subarray(index * width, (index + 1) * width).filter((point) => point !== 0)));
}

function fromHalf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

// Data of an array as numbers, whole numbers or texts that can be compared; float16 may be its bits or its values.
function readValues({ type, data }) {
  const all = Array.from(data);
  return type === "float16" && data instanceof Uint16Array ? all.map(fromHalf) : all;
}

function compare(outputs, expected, tolerance) {
  if (outputs.length !== Object.keys(expected).length) return `differs: ${outputs.length} outputs`;
  for (const [position, found] of outputs.entries()) {
    const wanted = expected[position];
    const dims = found.dims.map(Number);
    if (found.type !== wanted.type || String(dims) !== String(wanted.dims)) {
      return `differs: output ${position} is ${found.type}[${dims}], expected ${wanted.type}[${wanted.dims}]`;
    }
    const exact = !wanted.type.startsWith("float");
    const [got, values] = [readValues(found), readValues(wanted)];
    const same = values.every((value, index) => {
      if (exact) return typeof value === "number" ? Number(got[index]) === value : got[index] === value;
      if (Number.isNaN(value) || !Number.isFinite(value)) return Object.is(got[index], value);
      return Math.abs(got[index] - value) <= tolerance * Math.abs(value) + tolerance / 10;
    });
    if (!same) return `differs: output ${position} has other values`;
  }
  return "ok";
}

async function attempt(ort, { graph, feeds, expected, tolerance }) {
  let session = null;
  try {
    session = await ort.InferenceSession.create(new Uint8Array(graph), {
      executionProviders: [NAME === "onnxruntime-web" ? "wasm" : "cpu"],
      intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4,
    });
    if (feeds.length === 0) return "ok";
    const given = Object.entries(readArrays(feeds)).map(([name, { type, dims, data }]) =>
      [name, new ort.Tensor(type, data, dims)]);
    const got = await session.run(Object.fromEntries(given));
    const outputs = session.outputNames.map((name) => got[name]);
    return expected.length === 0 ? "ok" : compare(outputs, readArrays(expected), tolerance);
  } catch (error) {
    return String(error?.message ?? error).replace(/\s+/g, " ").trim().slice(0, 400) || "an error without a message";
  } finally {
    await session?.release?.().catch(() => undefined);
  }
}

function say(value) {
  writeSync(1, `${JSON.stringify(value)}\n`);
}

async function main([path, first]) {
  const { version } = JSON.parse(readFileSync(join(ROOT, "node_modules", NAME, "package.json"), "utf8"));
  if (path === "--about") return say({ package: NAME, version, node: process.versions.node });
  setFlagsFromString("--liftoff-only"); // each graph runs once: code that is made better takes longer than it saves
  const ort = require(NAME);
  if (ort.env?.wasm) ort.env.wasm.numThreads = 1;
  let index = 0;
  for (const record of records(path)) {
    if (index >= Number(first)) {
      const found = await attempt(ort, record);
      say([index, found]);
      if (NAME === "onnxruntime-web" && BROKEN.test(found)) process.exit(1);
    }
    index += 1;
  }
  return undefined;
}

await main(process.argv.slice(2));
process.exit(0);
