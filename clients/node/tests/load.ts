/**
 * Calls while brokers come and go: `load.js ADDRESSES COUNT`. Writes one JSON line for each answer, with the input that
 * it belongs to, and at the end how many there were.
 */
import { Client, DspymqError } from "../src/index.js";

const [, , addresses = "", total = "100"] = process.argv;
const client = new Client({ addresses, name: "load", defaults: { timeoutMs: 50_000 } });

function* inputs(): Generator<{ text: string }> {
  for (let n = 0; n < Number(total); n += 1) yield { text: `${n} of ${total}` };
}

let answered = 0;
const wrong: string[] = [];
process.stdout.write(`${JSON.stringify({ started: true })}\n`);
for await (const answer of client.map("echo", inputs(), { concurrency: 16, returnErrors: true })) {
  const expected = `${answered} of ${total}`;
  if (answer instanceof DspymqError) wrong.push(`${expected}: ${answer.code}/${answer.reason} ${answer.message}`);
  else if (answer.outputs.text !== expected) wrong.push(`${expected}: ${JSON.stringify(answer.outputs)}`);
  answered += 1;
  if (answered % 50 === 0) process.stdout.write(`${JSON.stringify({ answered })}\n`);
}
process.stdout.write(`${JSON.stringify({ answered, wrong: wrong.slice(0, 5), failed: wrong.length })}\n`);
await client.close();
