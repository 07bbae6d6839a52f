// SPDX-License-Identifier: Apache-2.0
// Repeat in the browser what the page claims: signatures by keys, digests, the bytes of a bundle's file. No requests.
"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("passport-data").textContent);
  const byId = (id) => document.getElementById(id);
  const utf8 = (text) => new TextEncoder().encode(text);
  const text = (bytes) => new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  const fromBase64 = (data) => Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const hex = (bytes) => [...new Uint8Array(bytes)].map((b) => b.toString(16).padStart(2, "0")).join("");
  const sha256 = async (bytes) => "sha256:" + hex(await crypto.subtle.digest("SHA-256", bytes));
  const sameBytes = (a, b) => a.length === b.length && a.every((value, index) => value === b[index]);
  const join = (...parts) => {
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) { whole.set(part, at); at += part.length; }
    return whole;
  };
  class Refused extends Error {}
  const demand = (holds, message) => { if (!holds) throw new Refused(message); };

  // keys and signatures: DSSE v1, ECDSA on P-256 with SHA-256 and on P-384 with SHA-384

  async function readKey(pem) {
    const body = /-----BEGIN PUBLIC KEY-----([\sA-Za-z0-9+/=]+)-----END PUBLIC KEY-----/.exec(pem);
    demand(body, "this is no public key in PEM");
    const spki = fromBase64(body[1].replace(/\s/g, ""));
    const lines = body[1].replace(/\s/g, "").match(/.{1,64}/g).join("\n");
    const canonical = `-----BEGIN PUBLIC KEY-----\n${lines}\n-----END PUBLIC KEY-----\n`;
    const fingerprint = (await sha256(utf8(canonical))).slice(7);
    for (const [namedCurve, hash, size] of [["P-256", "SHA-256", 32], ["P-384", "SHA-384", 48]]) {
      try {
        const key = await crypto.subtle.importKey("spki", spki, { name: "ECDSA", namedCurve }, false, ["verify"]);
        return { key, hash, size, fingerprint };
      } catch { /* of the other curve */ }
    }
    throw new Refused("the key is of no curve that this page knows (P-256, P-384)");
  }

  function rawSignature(der, size) {
    let at = 0;
    const take = (tag) => {
      demand(der[at] === tag && at + 1 < der.length, "a signature is no DER");
      let length = der[at + 1];
      at += 2;
      if (length === 0x81) { length = der[at]; at += 1; demand(length >= 0x80, "a signature is no DER"); }
      demand(length < 0x100 && at + length <= der.length, "a signature is no DER");
      return length;
    };
    const whole = take(0x30);
    demand(at + whole === der.length, "a signature is no DER");
    const number = () => {
      const length = take(0x02);
      const digits = der.subarray(at, at + length);
      at += length;
      demand(length > 0 && digits[0] < 0x80, "a signature is no DER");
      const first = digits[0] === 0 ? 1 : 0;
      const raw = new Uint8Array(size);
      demand(length - first <= size, "a signature is too long for its key");
      raw.set(digits.subarray(first), size - (length - first));
      return raw;
    };
    const raw = join(number(), number());
    demand(at === der.length, "a signature is no DER");
    return raw;
  }

  async function signs(key, payload, signature) {
    const type = "application/vnd.in-toto+json";
    const signed = join(utf8(`DSSEv1 ${type.length} ${type} ${payload.length} `), payload);
    const raw = rawSignature(signature, key.size);
    return crypto.subtle.verify({ name: "ECDSA", hash: key.hash }, key.key, raw, signed);
  }

  async function checkStatement(item, keys) {
    const data = fromBase64(item.data);
    demand((await sha256(data)) === item.digest, "its bytes are not those of its digest");
    const record = JSON.parse(text(data));
    const envelope = record.dsseEnvelope;
    demand(envelope && envelope.payloadType === "application/vnd.in-toto+json", "it is no in-toto statement");
    demand(envelope.signatures.length === 1, "it has not exactly one signature");
    const payload = fromBase64(envelope.payload);
    const statement = JSON.parse(text(payload));
    if (!(record.verificationMaterial || {}).publicKey) {
      return { statement, outcome: "unknown", detail: "signed by a certificate: `packager verify` checks it" };
    }
    for (const key of keys) {
      if (await signs(key, payload, fromBase64(envelope.signatures[0].sig))) {
        return { statement, outcome: "ok", detail: `signed by the key ${key.fingerprint.slice(0, 16)}…`, key };
      }
    }
    return { statement, outcome: "no", detail: "signed by none of these keys" };
  }

  async function layers() {
    const manifest = fromBase64(facts.evidence.manifest);
    demand((await sha256(manifest)) === facts.bundle.digest, "the manifest on this page is not that of its digest");
    const parsed = JSON.parse(text(manifest));
    return { manifest, blobs: [parsed.config, ...parsed.layers] };
  }

  function isAbout(statement, blobs) {
    const subjects = statement.subject || [];
    if (statement.predicateType === "https://model_signing/signature/v1.0") {
      const known = new Set(blobs.map((blob) => blob.digest));
      const rows = statement.predicate.resources || [];
      return rows.length > 0 && rows.every((row) => known.has(`sha256:${row.digest}`));
    }
    return subjects.length === 1 && `sha256:${subjects[0].digest.sha256}` === facts.bundle.digest;
  }

  async function checkPage(pems) {
    const { blobs } = await layers();
    const keys = [];
    for (const pem of pems) keys.push(await readKey(pem));
    const rows = [];
    let signer = null;
    for (const item of facts.evidence.statements) {
      try {
        const found = await checkStatement(item, keys);
        demand(isAbout(found.statement, blobs), "it is about something else than this bundle");
        const { predicateType: kind, predicate } = found.statement;
        if (kind === "urn:packager:bundle:v1" && found.outcome === "ok") {
          const { name, version } = facts.bundle;
          demand(predicate.name === name && predicate.version === version, "it is about another name or version");
          signer = found.key.fingerprint;
        }
        rows.push({ kind, outcome: found.outcome, detail: found.detail });
      } catch (error) {
        rows.push({ kind: item.digest, outcome: "no", detail: why(error) });
      }
    }
    return { signer, rows };
  }

  const why = (error) => (error instanceof Refused ? error.message : `it cannot be read (${error.message})`);

  // the single-file form: the one valid tar of an OCI layout; see `docs/reference/format.md`

  const BLOCK = 512, RECORD = 10240, MAX_MEMBER = 2 ** 31;

  function headerOf(name, size) {
    const head = fromBase64(facts.evidence.header).slice();
    head.fill(0, 0, 100);
    head.set(utf8(name), 0);
    head.set(utf8(size.toString(8).padStart(11, "0")), 124);
    head.fill(0x20, 148, 156);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.set(utf8(sum.toString(8).padStart(6, "0")), 148);
    head[154] = 0;
    return head;
  }

  async function checkFile(file, progress = () => {}) {
    const read = async (at, length) => {
      demand(at + length <= file.size, "the file ends too early");
      return new Uint8Array(await file.slice(at, at + length).arrayBuffer());
    };
    const { manifest, blobs } = await layers();
    const members = [];
    let at = 0;
    for (;;) {
      const head = await read(at, BLOCK);
      if (head.every((byte) => byte === 0)) break;
      const name = String.fromCharCode(...head.subarray(0, 100)).replace(/\0+$/, "");
      const size = parseInt(String.fromCharCode(...head.subarray(124, 135)), 8);
      demand(Number.isSafeInteger(size) && sameBytes(head, headerOf(name, size)), `the header of \`${name}\` is damaged`);
      demand(size < MAX_MEMBER, `\`${name}\` is too large for a browser: use \`packager verify\``);
      const data = await read(at + BLOCK, size);
      const pad = (BLOCK - (size % BLOCK)) % BLOCK;
      demand((await read(at + BLOCK + size, pad)).every((byte) => byte === 0), `bytes after \`${name}\` are damaged`);
      const digest = await sha256(data);
      const blob = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(name);
      if (blob) demand(digest === `sha256:${blob[1]}`, `\`${name}\` is damaged: its bytes have another digest`);
      members.push({ name, size, digest: blob ? digest : null, data: blob ? null : data });
      at += BLOCK + size + pad;
      progress(at / file.size);
    }
    const rest = await read(at, file.size - at);
    const ending = 2 * BLOCK + ((RECORD - ((at + 2 * BLOCK) % RECORD)) % RECORD);
    demand(rest.length === ending && rest.every((byte) => byte === 0), "the end of the file is damaged");
    const names = members.map((member) => member.name);
    demand(names[0] === "index.json" && names[1] === "oci-layout", "it is no bundle in a single file");
    demand(new Set(names).size === names.length, "a member appears twice");
    demand(text(members[1].data) === '{"imageLayoutVersion":"1.0.0"}', "its `oci-layout` is damaged");
    const sorted = [...members.slice(2)].sort((a, b) => a.size - b.size || (a.digest < b.digest ? -1 : 1));
    demand(sorted.every((member, index) => member === members[index + 2]), "its members are not in order");
    const there = new Map(members.slice(2).map((member) => [member.digest, member.size]));
    demand(there.get(facts.bundle.digest) === manifest.length, "it holds another bundle than this page is about");
    for (const blob of blobs) {
      demand(there.get(blob.digest) === blob.size, `\`${blob.digest}\` is missing`);
    }
    const index = fromBase64(facts.evidence.index);
    if (!sameBytes(members[0].data, index)) {
      return { same: false, detail: "every file of the model is right; what is attached differs from this page" };
    }
    const { members: known } = facts.evidence;
    demand(known.length === there.size, "it holds other blobs than the bundle has");
    for (const [digest, size] of known) demand(there.get(digest) === size, `\`${digest}\` is missing`);
    return { same: true, detail: `${members.length} members, ${file.size} bytes: exactly the bundle of this page` };
  }

  // the model on its reference inputs, in ONNX Runtime Web

  const ARRAYS = {
    F64: [Float64Array, "float64"], F32: [Float32Array, "float32"], I64: [BigInt64Array, "int64"],
    I32: [Int32Array, "int32"], I16: [Int16Array, "int16"], I8: [Int8Array, "int8"], U8: [Uint8Array, "uint8"],
    U16: [Uint16Array, "uint16"], U32: [Uint32Array, "uint32"], U64: [BigUint64Array, "uint64"], BOOL: [Uint8Array, "bool"],
  };

  function readTensors(bytes) {
    const start = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    const header = JSON.parse(text(bytes.subarray(8, start)));
    return Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, row]) => {
      demand(ARRAYS[row.dtype], `tensors of ${row.dtype} do not run here`);
      const [Values, type] = ARRAYS[row.dtype];
      const [from, to] = row.data_offsets;
      return { name, type, dims: row.shape, values: new Values(bytes.slice(start + from, start + to).buffer) };
    });
  }

  async function unpacked(data) {
    const stream = new Blob([fromBase64(data)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  let session = null;

  async function startSession(model) {
    const code = new Blob([await unpacked(facts.player.module)], { type: "text/javascript" });
    const url = URL.createObjectURL(code);
    const runtime = await import(url);
    URL.revokeObjectURL(url);
    runtime.env.wasm.wasmBinary = await unpacked(facts.player.wasm);
    runtime.env.wasm.numThreads = 1;
    return { runtime, running: await runtime.InferenceSession.create(model, { executionProviders: ["wasm"] }) };
  }

  function worstOf(got, expected, { atol, rtol }) {
    demand(got.data.length === expected.values.length, `output \`${expected.name}\` has another size`);
    let worst = 0, within = true;
    for (let index = 0; index < expected.values.length; index += 1) {
      const a = Number(got.data[index]), b = Number(expected.values[index]);
      if (Object.is(a, b) || a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
      const difference = Math.abs(a - b);
      worst = Math.max(worst, difference);
      if (!(difference <= atol + rtol * Math.abs(b))) within = false;
    }
    return { worst, within };
  }

  async function runModel(progress = () => {}) {
    const { blobs } = await layers();
    const known = new Set(blobs.map((blob) => blob.digest));
    const checked = async (data, name) => {
      const bytes = fromBase64(data);
      demand(known.has(await sha256(bytes)), `\`${name}\` on this page is no file of the bundle`);
      return bytes;
    };
    const model = await checked(facts.player.model, facts.player.path);
    const stated = await statedOutputs();
    session = session || (await startSession(model));
    const rows = [];
    for (const { name, file, data } of facts.player.cases) {
      const feeds = {};
      for (const tensor of readTensors(await checked(data, file))) {
        feeds[tensor.name] = new session.runtime.Tensor(tensor.type, tensor.values, tensor.dims);
      }
      const got = await session.running.run(feeds);
      for (const expected of stated.filter((tensor) => tensor.name.startsWith(`${file}/`))) {
        const output = expected.name.slice(file.length + 1);
        const { worst, within } = worstOf(got[output], expected, facts.player.tolerance[output]);
        rows.push({ name, output, worst, within });
      }
      progress(rows.length);
    }
    demand(rows.length, "nothing was compared: no reference output is stated for these inputs");
    return rows;
  }

  async function statedOutputs() {
    const keys = [];
    for (const pem of pems()) keys.push(await readKey(pem));
    for (const item of facts.evidence.statements) {
      const record = JSON.parse(text(fromBase64(item.data)));
      const statement = JSON.parse(text(fromBase64(record.dsseEnvelope.payload)));
      if (statement.predicateType !== "urn:packager:reference-outputs:v1") continue;
      const found = await checkStatement(item, keys);
      demand(found.outcome === "ok" && isAbout(statement, (await layers()).blobs), "the reference outputs are not signed");
      const file = statement.predicate.outputs.find((row) => row.name === "outputs.safetensors");
      const data = fromBase64(file.content || facts.player.outputs || "");
      demand((await sha256(data)) === `sha256:${file.digest.sha256}`, "the reference outputs are not those that are signed");
      return readTensors(data);
    }
    throw new Refused("this page carries no signed reference outputs");
  }

  async function showRun() {
    const place = byId("run-result");
    place.textContent = "starting ONNX Runtime in this page …";
    try {
      const rows = await runModel((count) => { place.textContent = `${count} outputs compared …`; });
      const worst = Math.max(...rows.map((row) => row.worst));
      const bad = rows.filter((row) => !row.within);
      if (bad.length) show(place, "no", `${bad.length} of ${rows.length} outputs are off, first ${bad[0].output} of ${bad[0].name}`);
      else show(place, "ok", `${rows.length} outputs within the contract; the largest difference is ${worst.toPrecision(3)}.`);
      return rows;
    } catch (error) {
      show(place, "no", why(error));
      return [];
    }
  }

  // what a reader sees

  function show(place, outcome, message) {
    place.replaceChildren();
    const badge = document.createElement("span");
    badge.className = `badge ${outcome}`;
    badge.textContent = { ok: "✓ holds", no: "✗ does not hold", unknown: "? not checked here" }[outcome];
    place.append(badge, " " + message);
  }

  async function showPage(pems) {
    const place = byId("signature-result"), list = byId("signature-rows");
    try {
      demand(globalThis.crypto && crypto.subtle, "this browser checks nothing for pages opened like this");
      demand(pems.length, "this page carries no key: paste the publisher's below");
      const { signer, rows } = await checkPage(pems);
      list.replaceChildren(...rows.map(({ kind, outcome, detail }) => {
        const row = document.createElement("li");
        show(row, outcome, `${kind}: ${detail}`);
        return row;
      }));
      if (signer) show(place, "ok", `The bundle ${facts.bundle.digest} is signed by the key ${signer}.`);
      else show(place, "no", "No statement about the bundle is signed by these keys.");
      return { signer, rows };
    } catch (error) {
      list.replaceChildren();
      show(place, error instanceof Refused ? "unknown" : "no", why(error));
      return { signer: null, rows: [] };
    }
  }

  async function showFile(file) {
    const place = byId("file-result");
    place.textContent = `reading ${file.name} …`;
    try {
      const found = await checkFile(file, (part) => { place.textContent = `reading: ${Math.round(part * 100)} %`; });
      show(place, found.same ? "ok" : "unknown", found.detail);
      return found;
    } catch (error) {
      show(place, "no", why(error));
      return { same: false, detail: why(error) };
    }
  }

  function filterRows(input) {
    const wanted = input.value.toLowerCase();
    let count = 0;
    for (const row of byId("components").tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    byId("components-count").textContent = `${count} shown`;
  }

  for (const part of document.querySelectorAll(".interactive")) part.hidden = false;
  const own = byId("own-key");
  const pems = () => (own.value.trim() ? [own.value] : facts.evidence.keys.map((key) => key.pem));
  byId("check-signatures").addEventListener("click", () => showPage(pems()));
  byId("bundle-file").addEventListener("change", (event) => event.target.files[0] && showFile(event.target.files[0]));
  const drop = byId("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) showFile(event.dataTransfer.files[0]);
  });
  const search = byId("components-search");
  if (search) search.addEventListener("input", () => filterRows(search));
  if (facts.player) byId("run-model").addEventListener("click", showRun);
  globalThis.passport = { checkPage, checkFile, runModel, facts, fromBase64, pems };
  showPage(pems());
})();
