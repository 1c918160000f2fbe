/**
 * Six things that a client does, against a broker with the programs of the repository's examples:
 *
 *     dspymq up examples.programs
 *     node six-things.js tcp://127.0.0.1:5570
 */
import { Client, DspymqError, InvalidArgument } from "dspymq";

const address = process.argv[2] ?? "tcp://127.0.0.1:5570";

// -- call
const client = new Client({ addresses: address, name: "six-things" });

const prediction = await client.call("question -> answer", { question: "What is a queue?" }, { timeoutMs: 30_000 });
console.log("call:", prediction.outputs.answer, prediction.usage?.models);
// -- end

// -- extraction
type Person = { name: string; age: number; cities: string[] };

const text = "Ada, 36, lives in London and Paris.";
const person = await client.call<Person>("text -> name, age: int, cities: list[str]", { text });
console.log("extraction:", person.outputs.name, person.outputs.age + 1, person.outputs.cities.length);
// -- end

// -- stream
const story = client.stream("topic -> story", { topic: "A queue that never grew" });
for await (const chunk of story) {
  if (chunk.reset) process.stdout.write("\n"); // what came before is void
  process.stdout.write(chunk.text);
}
const whole = (await story.result()).outputs.story;
// -- end
console.log("\nstream: %d characters", whole.length);

// -- cancel
const controller = new AbortController();
setTimeout(() => controller.abort(), 50);
try {
  const { outputs } = await client.call("topic -> story", { topic: "Something long" }, { signal: controller.signal });
  console.log("cancel: it was faster:", outputs.story);
} catch (error) {
  if (!controller.signal.aborted) throw error;
  console.log("cancel: stopped"); // and the job's model call is closed
}
// -- end

// -- tool
const weather = {
  name: "weather",
  description: "The weather in a city, now.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  run: async ({ city }: { city: string }) => ({ city, sky: "clear", celsius: 21 }),
};
const question = "Do I need an umbrella in Oslo?";
const agent = await client.call("question -> answer", { question }, { kind: "react", tools: [weather], maxIters: 5 });
console.log("tool:", agent.outputs.answer);
// -- end

// -- errors
try {
  await client.call("sentiment", { reviw: "It broke after a day." });
} catch (error) {
  if (error instanceof InvalidArgument) console.log("errors:", error.fields);
  else if (error instanceof DspymqError) console.log(error.retryable ? "again later" : "no", error.code, error.reason);
  else throw error;
}
// -- end

await client.close();
