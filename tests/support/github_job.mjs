// SPDX-License-Identifier: Apache-2.0
// Performs the steps of one job of a GitHub workflow in their order, as a runner does. Expressions are evaluated by
// GitHub's own library; actions of others are commands that do what the steps after them see.
//
// Usage: node github_job.mjs JOB.json RESULT.json, see tests/support/github.py.
import { Evaluator, Lexer, Parser, data } from "@actions/expressions";
import { parse } from "yaml";
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { globSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const workspace = given.github.workspace;
const temporary = given.runner.temp;
mkdirSync(temporary, { recursive: true });
const path = [];
const performed = [];

function evaluate(text, scope) {
  const contexts = { ...scope.contexts, steps: scope.steps, env: scope.env };
  const status = {
    always: () => true,
    cancelled: () => false,
    success: () => !scope.failed,
    failure: () => scope.failed,
  };
  const functions = Object.entries(status).map(([name, call]) => ({
    name, minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(call()),
  }));
  functions.push({ name: "hashFiles", minArgs: 1, maxArgs: 99, call: (...patterns) => new data.StringData(hash(patterns)) });
  const tokens = new Lexer(text).lex().tokens;
  const tree = new Parser(tokens, Object.keys(contexts), functions).parse();
  const known = JSON.parse(JSON.stringify(contexts), data.reviver);
  return new Evaluator(tree, known, new Map(functions.map((item) => [item.name.toLowerCase(), item]))).evaluate();
}

function hash(patterns) {
  const files = patterns.flatMap((pattern) => globSync(pattern.coerceString(), { cwd: workspace })).sort();
  if (files.length === 0) return "";
  const sum = createHash("sha256");
  for (const file of files) sum.update(readFileSync(join(workspace, file)));
  return sum.digest("hex");
}

const fill = (value, scope) =>
  String(value ?? "").replace(/\$\{\{(.*?)\}\}/gs, (_, inner) => evaluate(inner.trim(), scope).coerceString());

const fillAll = (table, scope) =>
  Object.fromEntries(Object.entries(table ?? {}).map(([name, value]) => [name, fill(value, scope)]));

function holds(condition, scope) {
  const text = String(condition ?? "success()").replace(/^\s*\$\{\{(.*)\}\}\s*$/s, "$1");
  const whole = /\b(always|cancelled|success|failure)\s*\(/.test(text) ? text : `success() && (${text})`;
  return evaluate(`(${whole}) && true || false`, scope).coerceString() === "true";
}

function readCommands(file) {
  const found = {};
  const lines = readFileSync(file, "utf8").split("\n");
  while (lines.length) {
    const line = lines.shift();
    const [, name, mark] = line.match(/^([^=<]+)<<(.+)$/) ?? [];
    if (name) {
      const end = lines.indexOf(mark);
      found[name] = lines.splice(0, end + 1).slice(0, -1).join("\n");
    } else if (line.includes("=")) {
      found[line.slice(0, line.indexOf("="))] = line.slice(line.indexOf("=") + 1);
    }
  }
  return found;
}

function execute(command, shell, variables, scope) {
  const folder = mkdtempSync(join(temporary, "step-"));
  const files = Object.fromEntries(["OUTPUT", "STEP_SUMMARY", "PATH", "ENV"].map((name) => [`GITHUB_${name}`, join(folder, name)]));
  for (const file of Object.values(files)) writeFileSync(file, "");
  const script = join(folder, "script");
  writeFileSync(script, command);
  const words = {
    undefined: ["bash", "-e", script],
    bash: ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
    python: ["python", script],
  }[shell];
  if (!words) throw new Error(`shell ${shell} is not known here`);
  const environment = {
    ...process.env, ...given.variables, ...scope.env, ...variables, ...files,
    GITHUB_WORKSPACE: workspace, RUNNER_TEMP: temporary, CI: "true",
    ...(scope.place ? { GITHUB_ACTION_PATH: scope.place } : {}),
    PATH: [...path, process.env.PATH].join(":"),
  };
  const done = spawnSync(words[0], words.slice(1), { cwd: workspace, env: environment, stdio: "inherit" });
  path.unshift(...readFileSync(files.GITHUB_PATH, "utf8").split("\n").filter(Boolean));
  if (readFileSync(files.GITHUB_ENV, "utf8")) throw new Error("a step writes to GITHUB_ENV");
  return { ok: done.status === 0, outputs: readCommands(files.GITHUB_OUTPUT), summary: readFileSync(files.GITHUB_STEP_SUMMARY, "utf8") };
}

function callAction(place, inputs, scope) {
  const action = parse(readFileSync(join(place, "action.yml"), "utf8"));
  const unknown = Object.keys(inputs).filter((name) => !(name in action.inputs));
  if (unknown.length) throw new Error(`inputs that the action has not: ${unknown}`);
  const defaults = Object.fromEntries(Object.entries(action.inputs).map(([name, item]) => [name, String(item.default ?? "")]));
  const { secrets, needs, ...contexts } = scope.contexts; // an action sees no secrets but those that it is given
  const inner = { contexts: { ...contexts, inputs: { ...defaults, ...inputs } }, steps: {}, env: scope.env, failed: false, place };
  performAll(action.runs.steps, inner);
  const outputs = Object.entries(action.outputs ?? {}).map(([name, item]) => [name, fill(item.value, inner)]);
  return { ok: !inner.failed, outputs: Object.fromEntries(outputs) };
}

function perform(step, scope) {
  const variables = fillAll(step.env, scope);
  if (step.run) return execute(fill(step.run, scope), step.shell, variables, scope);
  const inputs = fillAll(step.with, scope);
  if (step.uses.startsWith("./")) return callAction(join(workspace, step.uses), inputs, scope);
  if (step.uses.startsWith("$/")) return callAction(join(given.repository, step.uses.slice(2)), inputs, scope);
  const command = given.actions[step.uses.split("@")[0]];
  if (command === undefined) throw new Error(`no command stands for ${step.uses}`);
  const asVariables = Object.entries(inputs).map(([name, value]) => [`INPUT_${name.toUpperCase().replaceAll("-", "_")}`, value]);
  return execute(command, "bash", { ...variables, ...Object.fromEntries(asVariables) }, scope);
}

function performAll(steps, scope) {
  for (const step of steps) {
    const name = step.name ?? step.uses ?? step.run;
    if (!holds(step.if, scope)) {
      performed.push([name, "skipped"]);
      if (step.id) scope.steps[step.id] = { outputs: {}, outcome: "skipped", conclusion: "skipped" };
      continue;
    }
    console.log(`step: ${name}`);
    const done = perform({ ...step, name }, scope);
    const outcome = done.ok ? "success" : "failure";
    performed.push([name, outcome]);
    if (step.id) scope.steps[step.id] = { outputs: done.outputs, outcome, conclusion: outcome };
    if (done.summary) console.log(done.summary);
    if (!done.ok) scope.failed = true;
  }
}

const workflow = parse(readFileSync(given.workflow, "utf8"));
const job = workflow.jobs[given.job];
const declared = workflow.on?.workflow_call?.inputs ?? {};
const inputs = Object.fromEntries(Object.entries(declared).map(([name, item]) => [name, item.default ?? ""]));
const scope = {
  contexts: { github: given.github, runner: given.runner, job: given.context, secrets: given.secrets, inputs: { ...inputs, ...given.inputs } },
  steps: {}, env: {}, failed: false,
};
scope.env = { ...fillAll(workflow.env, scope), ...fillAll(job.env, scope) };
const wanted = holds(job.if, scope);
if (wanted) performAll(job.steps, scope);
writeFileSync(process.argv[3], JSON.stringify({ wanted, ok: !scope.failed, steps: performed, outputs: fillAll(job.outputs, scope) }));
