/** Form fields from the JSON schema of the job spec, and access to spec values by dotted path. */
import type { Schema } from "../../api/capabilities";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type Spec = { [key: string]: Json };

export type FieldKind = "text" | "integer" | "number" | "boolean" | "choice" | "json";

export interface Field {
  /** Dotted path in the spec. */
  path: string;
  name: string;
  kind: FieldKind;
  about: string;
  /** Placeholder of the empty input; "" for none. */
  placeholder: string;
  isRequired: boolean;
  choices: readonly string[];
  min: number | undefined;
  max: number | undefined;
}

export interface Section {
  /** Dotted path of the object; "" for the root. */
  path: string;
  about: string;
  fields: readonly Field[];
}

type Schemas = Record<string, Schema>;

/** One section for the root and one per nested object, depth first. */
export function sectionsOf(schemas: Schemas, root = "JobSpec"): Section[] {
  return walk(schemas, schemas[root] ?? {}, "");
}

function walk(schemas: Schemas, schema: Schema, path: string): Section[] {
  const fields: Field[] = [];
  const nested: Section[] = [];
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const own = path === "" ? name : `${path}.${name}`;
    const resolved = resolve(schemas, property);
    if (own === "method") fields.push(methodField(property));
    else if (resolved.properties) nested.push(...walk(schemas, resolved, own));
    else fields.push(fieldOf(own, name, property, resolved, schema.required?.includes(name) ?? false));
  }
  return [{ path, about: schema.description ?? "", fields }, ...nested];
}

/** Resolve references and `anyOf` with null. */
export function resolve(schemas: Schemas, schema: Schema): Schema {
  if (schema.$ref !== undefined) return resolve(schemas, schemas[schema.$ref.split("/").at(-1) ?? ""] ?? {});
  const options = schema.anyOf ?? schema.allOf;
  const first = options?.find((option) => option.type !== "null");
  return first === undefined ? schema : { ...resolve(schemas, first) };
}

function methodField(schema: Schema): Field {
  const choices = ["pipeline", "sft", "rl", "eval"];
  return { path: "method", name: "method", kind: "choice", about: schema.description ?? "", placeholder: "", isRequired: true, choices, min: undefined, max: undefined };
}

function fieldOf(path: string, name: string, schema: Schema, resolved: Schema, isRequired: boolean): Field {
  const choices = (resolved.enum ?? (resolved.const === undefined ? [] : [resolved.const])).map(String);
  const lowest = resolved.minimum ?? resolved.exclusiveMinimum;
  return {
    path, name, isRequired, choices, about: schema.description ?? "",
    kind: choices.length > 0 && resolved.type === "string" ? "choice" : kindOf(resolved.type),
    placeholder: schema.default === undefined || schema.default === null ? "" : plain(schema.default as Json),
    min: lowest,
    max: resolved.maximum ?? resolved.exclusiveMaximum,
  };
}

function kindOf(type: string | undefined): FieldKind {
  if (type === "integer" || type === "number" || type === "boolean") return type;
  return type === "string" ? "text" : "json";
}

function plain(value: Json): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Value at a dotted path, or undefined. */
export function valueAt(spec: Spec, path: string): Json | undefined {
  let value: Json | undefined = spec;
  for (const key of path.split(".")) {
    if (value === null || typeof value !== "object" || Array.isArray(value)) return undefined;
    value = value[key];
  }
  return value;
}

/** Copy with the value at the path. Undefined removes the key, and objects that become empty. */
export function withValue(spec: Spec, path: string, value: Json | undefined): Spec {
  const [key = "", ...rest] = path.split(".");
  if (rest.length === 0) return withKey(spec, key, value);
  const inner = spec[key];
  const child = withValue(inner !== null && typeof inner === "object" && !Array.isArray(inner) ? inner : {}, rest.join("."), value);
  return withKey(spec, key, Object.keys(child).length === 0 ? undefined : child);
}

/** Copy with the key set, in its old position or at the end; undefined removes it. */
function withKey(spec: Spec, key: string, value: Json | undefined): Spec {
  const others = Object.entries({ ...spec, ...(value === undefined ? {} : { [key]: value }) });
  return Object.fromEntries(value === undefined ? others.filter(([name]) => name !== key) : others);
}

/** Remove defaults and empty values from a stored spec, which has every key. */
export function withoutDefaults(spec: Spec, sections: readonly Section[]): Spec {
  return sections.flatMap((section) => section.fields).reduce((rest, field) => {
    const text = showInput(valueAt(spec, field.path));
    const isDefault = text === "" || text === "{}" || (!field.isRequired && text === field.placeholder);
    return isDefault ? withValue(rest, field.path, undefined) : rest;
  }, spec);
}

/** Parse the text of an input; undefined if it is empty. Invalid numbers stay text, which the API rejects with the path of the field. */
export function parseInput(field: Field, text: string): Json | undefined {
  if (text.trim() === "") return undefined;
  if (field.kind === "integer" || field.kind === "number") return Number.isNaN(Number(text)) ? text : Number(text);
  if (field.kind === "boolean") return text === "true";
  if (field.kind === "json") {
    try {
      return JSON.parse(text) as Json;
    } catch {
      return text;
    }
  }
  return text;
}

/** Text of a value in its input. */
export function showInput(value: Json | undefined): string {
  return value === undefined || value === null ? "" : plain(value);
}

/** The method, given as a string or as an object with a type. */
export function methodOf(spec: Spec): string {
  const method = spec["method"];
  return typeof method === "string" ? method : String((method as { type?: Json } | undefined)?.type ?? "");
}

/** Whether the section has an effect on the method. */
export function appliesTo(section: Section, method: string): boolean {
  const name = section.path.split(".")[0];
  if (name === "sft") return method === "sft" || method === "pipeline";
  if (name === "rl") return method === "rl" || method === "pipeline";
  if (name === "optim" || name === "checkpoint") return method !== "eval";
  return true;
}
