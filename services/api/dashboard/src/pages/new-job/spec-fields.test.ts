import { expect, test } from "vitest";

import { cliCommand, curlCommand, quoteForShell } from "./commands";
import { appliesTo, parseInput, sectionsOf, type Spec, valueAt, withoutDefaults, withValue } from "./spec-fields";

const SCHEMAS = {
  JobSpec: {
    properties: {
      model: { type: "string", description: "Directory." },
      method: { $ref: "#/components/schemas/Method" },
      seed: { type: "integer", default: 0 },
      rl: { $ref: "#/components/schemas/RlSpec" },
    },
    required: ["model", "method"],
  },
  Method: { properties: { type: { type: "string" } } },
  RlSpec: {
    description: "DiPO.",
    properties: {
      steps: { type: "integer", default: 100, exclusiveMinimum: 0 },
      advantage: { enum: ["std", "mean"], type: "string", default: "std" },
      optim: { anyOf: [{ $ref: "#/components/schemas/OptimSpec" }, { type: "null" }] },
    },
  },
  OptimSpec: { properties: { lr: { type: "number" }, betas: { type: "array" } } },
};

test("the schema becomes sections, and nested objects follow their parents", () => {
  const sections = sectionsOf(SCHEMAS);
  expect(sections.map((section) => [section.path, section.fields.map((field) => field.kind)])).toEqual([
    ["", ["text", "choice", "integer"]],
    ["rl", ["integer", "choice"]],
    ["rl.optim", ["number", "json"]],
  ]);
  expect(sections[1]?.fields[0]).toMatchObject({ path: "rl.steps", placeholder: "100", min: 0 });
});

test("only sections that apply to the method are shown", () => {
  const [, rl] = sectionsOf(SCHEMAS);
  if (rl === undefined) throw new Error("no section");
  expect([appliesTo(rl, "rl"), appliesTo(rl, "pipeline"), appliesTo(rl, "sft")]).toEqual([true, true, false]);
});

test("clearing a value removes objects that become empty", () => {
  const spec: Spec = withValue({ model: "m" }, "rl.optim.lr", 0.1);
  expect(spec).toEqual({ model: "m", rl: { optim: { lr: 0.1 } } });
  expect(valueAt(spec, "rl.optim.lr")).toBe(0.1);
  expect(withValue(spec, "rl.optim.lr", undefined)).toEqual({ model: "m" });
});

test("an invalid number stays text, so that the API can reject it with its path", () => {
  const field = sectionsOf(SCHEMAS)[1]?.fields[0];
  if (field === undefined) throw new Error("no field");
  expect([parseInput(field, "12"), parseInput(field, "twelve"), parseInput(field, " ")]).toEqual([12, "twelve", undefined]);
});

test("a template keeps what differs from the defaults", () => {
  const stored: Spec = { model: "m", method: { type: "rl" }, seed: 0, rl: { steps: 100, advantage: "mean", optim: null } };
  expect(withoutDefaults(stored, sectionsOf(SCHEMAS))).toEqual({ model: "m", method: { type: "rl" }, rl: { advantage: "mean" } });
});

test("commands survive quotes in a spec", () => {
  expect(quoteForShell("it's")).toBe(`'it'\\''s'`);
  expect(curlCommand("http://h", { model: "it's" }, false)).toContain(`"it'\\''s"`);
  expect(curlCommand("http://h", {}, true)).toContain('jobs \\\n  -H "Authorization: Bearer $DIRL_API_KEY" \\\n  -H');
  expect(cliCommand({ model: "m" })).toContain("dirl jobs submit job.json");
});
