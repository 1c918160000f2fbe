/** The programs of a worker: plain functions, with what they take and give. */
import { createHash } from "node:crypto";
import { isMap, type PlainMap } from "../protocol/body.js";
import type { JobContext } from "./job-context.js";
import { JobError } from "./job-error.js";
import { misfits } from "./schema.js";

/** A JSON Schema of a value, or the name of a type. `optional: true`, or a `default`: it may be left out. */
export type FieldSchema = TypeName | (Record<string, unknown> & { optional?: boolean });

export type TypeName = "string" | "integer" | "number" | "boolean" | "array" | "object";

export interface ProgramDefinition {
  /** For people, and for models that choose among programs. */
  description?: string;
  /** What it takes, by name; checked before `run` is called. Left out: any object, unchecked. */
  inputs?: Record<string, FieldSchema>;
  /** What it gives, by name. Left out: not told. Text that it streams belongs to outputs of type `string`. */
  outputs?: Record<string, FieldSchema>;
  /**
   * Must change with anything that changes what the program does. Left out: a hash of `run`'s own source text, and of
   * inputs and outputs; that sees no change in what `run` calls.
   */
  revision?: string;
  /** Gives the outputs, or a promise of them. `context.signal` is aborted when the job is to stop. */
  run(inputs: any, context: JobContext): unknown;
}

/** Programs by name; a function alone is a program that takes any object. */
export type Programs = Record<string, ProgramDefinition | ProgramDefinition["run"]>;

const NAME = /^.{1,128}$/su;
const TYPES = new Set<unknown>(["string", "integer", "number", "boolean", "array", "object"]);

export class Program {
  readonly revision: string;
  readonly run: ProgramDefinition["run"];
  /** Outputs that may be streamed; undefined: any text. */
  readonly texts: ReadonlySet<string> | undefined;
  readonly description: PlainMap;
  private readonly inputs: PlainMap | undefined;

  /** `salt` is what else the revision depends on. Throws TypeError, which says what is wrong. */
  constructor(
    readonly name: string,
    definition: Programs[string],
    salt: string,
  ) {
    const made: ProgramDefinition = typeof definition === "function" ? { run: definition } : definition;
    if (!NAME.test(name) || name.startsWith("_"))
      throw new TypeError(`${JSON.stringify(name)} is no name of a program`);
    if (typeof made?.run !== "function") throw new TypeError(`program ${name}: \`run\` must be a function`);
    this.run = made.run.bind(made);
    this.inputs = made.inputs && objectSchema(name, made.inputs);
    const outputs = made.outputs && objectSchema(name, made.outputs);
    this.texts = outputs && textsOf(outputs);
    const { description = "", revision } = made;
    this.description = { description, inputs: this.inputs ?? { type: "object" }, outputs: outputs ?? null };
    const source = JSON.stringify([salt, made.run.toString(), this.inputs, outputs]);
    this.revision = revision ?? createHash("sha256").update(source).digest("hex").slice(0, 16);
    if (!NAME.test(this.revision)) throw new TypeError(`program ${name}: the revision must be 1 to 128 characters`);
  }

  /** The inputs, with defaults. Throws JobError `invalid_inputs`, which names each that is wrong. */
  checked(inputs: PlainMap): PlainMap {
    if (this.inputs === undefined) return inputs;
    const properties = this.inputs["properties"] as Record<string, PlainMap>;
    const whole: PlainMap = {};
    for (const [name, schema] of Object.entries(properties)) {
      if ("default" in schema) whole[name] = structuredClone(schema["default"]);
    }
    for (const [name, value] of Object.entries(inputs)) {
      // Some languages cannot tell an empty map from an empty array.
      const isMeantAsMap = properties[name]?.["type"] === "object" && Array.isArray(value) && value.length === 0;
      whole[name] = isMeantAsMap ? {} : value;
    }
    const found = misfits(whole, this.inputs, this.inputs);
    if (found.length === 0) return whole;
    const fields = found.map(({ path, keyword, message }) => ({
      field: path.split(/[.[]/, 1)[0],
      problem: PROBLEMS[keyword] ?? "value",
      message: `${path} ${message}`,
    }));
    const names = [...new Set(fields.map(({ field }) => field))].join(", ");
    throw new JobError(`the inputs do not fit ${this.name}: ${names}`, {
      code: "INVALID_ARGUMENT",
      reason: "invalid_inputs",
      details: { fields },
    });
  }
}

const PROBLEMS: Record<string, string> = { required: "missing", additionalProperties: "unknown", type: "type" };

/** Throws TypeError, which says what is wrong. */
export function makePrograms(programs: Programs, salt = ""): Map<string, Program> {
  if (!isMap(programs) || Object.keys(programs).length === 0) throw new TypeError("there are no programs");
  return new Map(Object.entries(programs).map(([name, each]) => [name, new Program(name, each, salt)]));
}

function objectSchema(program: string, fields: Record<string, FieldSchema>): PlainMap {
  const properties: Record<string, PlainMap> = {};
  const required: string[] = [];
  for (const [name, field] of Object.entries(fields)) {
    if (typeof field === "string" ? !TYPES.has(field) : !isMap(field)) {
      throw new TypeError(`program ${program}: \`${name}\` must be a JSON Schema, or one of ${[...TYPES].join(", ")}`);
    }
    const { optional, ...schema } = typeof field === "string" ? { type: field, optional: false } : field;
    properties[name] = schema;
    if (!optional && !("default" in schema)) required.push(name);
  }
  return { type: "object", properties, required, additionalProperties: false };
}

function textsOf(outputs: PlainMap): Set<string> {
  const properties = Object.entries(outputs["properties"] as Record<string, PlainMap>);
  return new Set(properties.filter(([, schema]) => schema["type"] === "string").map(([name]) => name));
}
