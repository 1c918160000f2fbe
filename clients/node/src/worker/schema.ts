/**
 * The part of JSON Schema that inputs and the arguments of tools are checked against.
 *
 * Schemas of tools come from clients that nobody vouches for, so nothing is fetched, `pattern` is never run (a regular
 * expression of a stranger could hold the loop of all jobs), and size and depth are bounded. Keywords that are not
 * known are ignored.
 */
import { isDeepStrictEqual } from "node:util";
import { isMap, type PlainMap } from "../protocol/body.js";

const MAX_NODES = 2_000;
const MAX_DEPTH = 24;
const MAX_PROBLEMS = 32;
const MAX_STEPS = 100_000;

/** What is wrong with a value. `keyword` is the one that it breaks. */
export interface Misfit {
  path: string;
  keyword: string;
  message: string;
}

/** What is wrong with a schema. */
export class SchemaProblem extends Error {}

const TYPES: Record<string, (value: unknown) => boolean> = {
  string: (value) => typeof value === "string",
  number: (value) => typeof value === "number" || typeof value === "bigint",
  integer: (value) => Number.isInteger(value) || typeof value === "bigint",
  boolean: (value) => typeof value === "boolean",
  null: (value) => value === null,
  array: Array.isArray,
  object: isMap,
};

/** Throws SchemaProblem unless this is the schema of an object, of a size that can be worked with. */
export function checkParameters(schema: unknown): PlainMap {
  if (!isMap(schema))
    throw new SchemaProblem("`parameters` must be a JSON Schema of an object, such as {type: object}");
  if ((schema["type"] ?? "object") !== "object") throw new SchemaProblem("`parameters.type` must be 'object'");
  let nodes = 0;
  const visit = (value: unknown, at: string, depth: number): void => {
    if (typeof value === "boolean" || (Array.isArray(value) && value.length === 0)) return;
    if (!isMap(value)) throw new SchemaProblem(`\`${at}\` must be a schema, which is a map`);
    nodes += 1;
    if (nodes > MAX_NODES) throw new SchemaProblem(`\`parameters\` has more than ${MAX_NODES} sub-schemas`);
    if (depth > MAX_DEPTH) throw new SchemaProblem(`\`parameters\` nests deeper than ${MAX_DEPTH}`);
    checkKeywords(value, at);
    const { $ref: reference } = value;
    if (reference !== undefined && resolve(reference, schema) === undefined) {
      throw new SchemaProblem(`\`${at}\`: \`$ref\` must name an entry of \`$defs\` as '#/$defs/NAME'`);
    }
    for (const [key, inner, name] of subschemas(value, at)) visit(inner, `${at}.${key}${name}`, depth + 1);
  };
  visit(schema, "parameters", 1);
  return schema;
}

/** What is wrong with this value; nothing if it fits. At most 32 things. */
export function misfits(value: unknown, schema: unknown, root: PlainMap, path = ""): Misfit[] {
  const checker = new Checker(root);
  checker.check(value, schema, path, 0);
  return checker.found;
}

/** `parameters` as they are checked: unlike in JSON Schema, what is not in `properties` is refused by default. */
export function closed(parameters: PlainMap): PlainMap {
  return { type: "object", additionalProperties: false, ...parameters };
}

class Checker {
  readonly found: Misfit[] = [];
  private steps = 0;

  constructor(private readonly root: PlainMap) {}

  check(value: unknown, schema: unknown, path: string, depth: number): void {
    this.steps += 1;
    if (this.found.length >= MAX_PROBLEMS || this.steps > MAX_STEPS || depth > 64) return;
    if (schema === false) this.add(path, "false", "nothing is allowed here");
    if (!isMap(schema)) return;
    if (schema["$ref"] !== undefined) {
      this.check(value, resolve(schema["$ref"], this.root), path, depth + 1);
    }
    if (this.type(value, schema, path)) return;
    this.choice(value, schema, path);
    if (typeof value === "number") this.number(value, schema, path);
    else if (typeof value === "string")
      this.size([...value].length, schema, path, "minLength", "maxLength", "characters");
    else if (Array.isArray(value)) this.array(value, schema, path, depth);
    else if (isMap(value)) this.object(value, schema, path, depth);
    this.combined(value, schema, path, depth);
  }

  private type(value: unknown, schema: PlainMap, path: string): boolean {
    const { type } = schema;
    if (type === undefined) return false;
    const types = (Array.isArray(type) ? type : [type]).map(String);
    if (types.some((each) => Object.hasOwn(TYPES, each) && TYPES[each]?.(value))) return false;
    this.add(path, "type", `must be ${types.join(" or ")}`);
    return true;
  }

  private choice(value: unknown, schema: PlainMap, path: string): void {
    const { enum: values } = schema;
    if (Array.isArray(values) && !values.some((each) => isDeepStrictEqual(each, value))) {
      this.add(path, "enum", `must be one of ${values.map((each) => JSON.stringify(each)).join(", ")}`);
    }
    if ("const" in schema && !isDeepStrictEqual(schema["const"], value)) {
      this.add(path, "const", `must be ${JSON.stringify(schema["const"])}`);
    }
  }

  private number(value: number, schema: PlainMap, path: string): void {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
    if (typeof minimum === "number" && value < minimum) this.add(path, "minimum", `must be at least ${minimum}`);
    if (typeof maximum === "number" && value > maximum) this.add(path, "maximum", `must be at most ${maximum}`);
    if (typeof exclusiveMinimum === "number" && value <= exclusiveMinimum) {
      this.add(path, "exclusiveMinimum", `must be above ${exclusiveMinimum}`);
    }
    if (typeof exclusiveMaximum === "number" && value >= exclusiveMaximum) {
      this.add(path, "exclusiveMaximum", `must be below ${exclusiveMaximum}`);
    }
    if (typeof multipleOf === "number" && multipleOf > 0 && !Number.isInteger(value / multipleOf)) {
      this.add(path, "multipleOf", `must be a multiple of ${multipleOf}`);
    }
  }

  private array(value: unknown[], schema: PlainMap, path: string, depth: number): void {
    this.size(value.length, schema, path, "minItems", "maxItems", "entries");
    const { items, prefixItems } = schema;
    const first = Array.isArray(prefixItems) ? prefixItems : Array.isArray(items) ? items : [];
    value.forEach((inner, n) => {
      const its = n < first.length ? first[n] : Array.isArray(items) ? undefined : items;
      this.check(inner, its, `${path}[${n}]`, depth + 1);
    });
  }

  private object(value: PlainMap, schema: PlainMap, path: string, depth: number): void {
    const { required, additionalProperties } = schema;
    const properties = isMap(schema["properties"]) ? schema["properties"] : {};
    for (const name of Array.isArray(required) ? required : []) {
      if (!Object.hasOwn(value, String(name))) this.add(inside(path, String(name)), "required", "is missing");
    }
    this.size(Object.keys(value).length, schema, path, "minProperties", "maxProperties", "entries");
    for (const [name, inner] of Object.entries(value)) {
      const at = inside(path, name);
      if (Object.hasOwn(properties, name)) this.check(inner, properties[name], at, depth + 1);
      else if (additionalProperties === false) {
        this.add(at, "additionalProperties", `is not known (known: ${Object.keys(properties).join(", ") || "none"})`);
      } else this.check(inner, additionalProperties, at, depth + 1);
    }
  }

  private combined(value: unknown, schema: PlainMap, path: string, depth: number): void {
    const fits = (each: unknown): boolean => {
      const inner = new Checker(this.root);
      inner.steps = this.steps;
      inner.check(value, each, path, depth + 1);
      this.steps = inner.steps;
      return inner.found.length === 0;
    };
    const { anyOf, oneOf, allOf, not } = schema;
    if (Array.isArray(allOf)) for (const each of allOf) this.check(value, each, path, depth + 1);
    if (Array.isArray(anyOf) && !anyOf.some(fits)) this.add(path, "anyOf", "fits none of what is allowed");
    if (Array.isArray(oneOf) && oneOf.filter(fits).length !== 1)
      this.add(path, "oneOf", "must fit exactly one of what is allowed");
    if (isMap(not) && fits(not)) this.add(path, "not", "is what is not allowed");
  }

  private size(size: number, schema: PlainMap, path: string, low: string, high: string, unit: string): void {
    const [least, most] = [schema[low], schema[high]];
    if (typeof least === "number" && size < least) this.add(path, low, `must have at least ${least} ${unit}`);
    if (typeof most === "number" && size > most) this.add(path, high, `must have at most ${most} ${unit}`);
  }

  private add(path: string, keyword: string, message: string): void {
    if (this.found.length < MAX_PROBLEMS) this.found.push({ path, keyword, message: message.slice(0, 200) });
  }
}

function inside(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

function resolve(reference: unknown, root: PlainMap): unknown {
  const [, group, name] = /^#\/(\$defs|definitions)\/([^/]+)$/.exec(String(reference)) ?? [];
  const named = group === undefined ? undefined : root[group];
  return isMap(named) && name !== undefined && Object.hasOwn(named, name) ? named[name] : undefined;
}

function* subschemas(schema: PlainMap, at: string): Generator<[string, unknown, string]> {
  for (const key of ["properties", "$defs", "definitions"]) {
    const inner = schema[key];
    if (inner === undefined || inner === null || (Array.isArray(inner) && inner.length === 0)) continue;
    if (!isMap(inner)) throw new SchemaProblem(`\`${at}.${key}\` must be a map`);
    for (const [name, each] of Object.entries(inner)) yield [key, each, `.${name}`];
  }
  for (const key of ["anyOf", "oneOf", "allOf", "prefixItems"]) {
    const inner = schema[key];
    if (inner === undefined) continue;
    if (!Array.isArray(inner)) throw new SchemaProblem(`\`${at}.${key}\` must be an array of schemas`);
    for (const [n, each] of inner.entries()) yield [key, each, `[${n}]`];
  }
  for (const key of ["items", "additionalProperties", "not"]) {
    const inner = schema[key];
    if (inner !== undefined && !Array.isArray(inner)) yield [key, inner, ""];
    else for (const [n, each] of (Array.isArray(inner) ? inner : []).entries()) yield [key, each, `[${n}]`];
  }
}

function checkKeywords(schema: PlainMap, at: string): void {
  const { type, required, enum: values } = schema;
  const types = type === undefined ? [] : Array.isArray(type) ? type : [type];
  for (const each of types) {
    if (typeof each !== "string" || !Object.hasOwn(TYPES, each)) {
      throw new SchemaProblem(`\`${at}.type\`: ${JSON.stringify(each)} is no type`);
    }
  }
  if (required !== undefined && !(Array.isArray(required) && required.every((each) => typeof each === "string"))) {
    throw new SchemaProblem(`\`${at}.required\` must be an array of names`);
  }
  if (values !== undefined && !(Array.isArray(values) && values.length <= MAX_NODES)) {
    throw new SchemaProblem(`\`${at}.enum\` must be an array of at most ${MAX_NODES} values`);
  }
}
