// SPDX-License-Identifier: Apache-2.0
// Judge Sigstore bundles with sigstore-js: one JSON request per line in, one JSON answer per line out.
//
// sigstore-js says who signed which payload. That the payload is the statement that is looked for, about the thing
// at hand, is left to its caller, and `caller` below is that: it takes what was verified and compares.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const { bundleFromJSON } = require("@sigstore/bundle");
const { toSignedEntity, toTrustMaterial, Verifier } = require("@sigstore/verify");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { createPublicKey } = require("node:crypto");

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

function judge(request) {
  const bundle = bundleFromJSON(JSON.parse(Buffer.from(request.document, "base64").toString()));
  const find = (hint) => {
    if (request.keys[hint] === undefined) throw new Error(`no key of this hint: ${hint}`);
    return { publicKey: createPublicKey(request.keys[hint]), validFor: () => true };
  };
  const material = toTrustMaterial(TrustedRoot.fromJSON(request.root), find);
  const policy = request.identity && {
    subjectAlternativeName: `^${escape(request.identity)}$`,
    ...(request.issuer && { extensions: { issuer: request.issuer } }),
  };
  new Verifier(material, request.thresholds).verify(toSignedEntity(bundle), policy);
  if ((request.keys && Object.keys(request.keys).length > 0) !== (bundle.verificationMaterial.content.$case === "publicKey"))
    throw new Error("signed in another way than is trusted");
  if (request.expect) caller(bundle.content.dsseEnvelope, request.expect);
}

function caller(envelope, expect) {
  if (envelope?.payloadType !== "application/vnd.in-toto+json") throw new Error("caller: no in-toto statement");
  const statement = JSON.parse(envelope.payload.toString());
  if (statement.predicateType !== expect.type) throw new Error("caller: a statement of another type");
  if (statement.subject.length !== 1 || statement.subject[0].digest.sha256 !== expect.subject)
    throw new Error("caller: a statement about something else");
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer = { accepted: true };
  try {
    judge(JSON.parse(line));
  } catch (error) {
    answer = { accepted: false, reason: `${error.code ?? ""} ${error.message}`.trim().slice(0, 200) };
  }
  console.log(JSON.stringify(answer));
}
