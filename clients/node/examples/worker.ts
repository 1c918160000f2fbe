/**
 * A worker: plain functions beside the pools of a broker.
 *
 *     node worker.js tcp://127.0.0.1:5571
 */
// -- worker
import { JobError, Worker } from "dspymq";

const worker = new Worker({
  addresses: process.argv[2] ?? "tcp://127.0.0.1:5571",
  name: "plain-functions",
  slots: { default: 8 },
  programs: {
    slugify: {
      description: "A title as it stands in a URL.",
      inputs: { title: "string", separator: { type: "string", default: "-" } },
      outputs: { slug: "string" },
      run: ({ title, separator }: { title: string; separator: string }) => ({
        slug: title.toLowerCase().split(/\W+/).filter(Boolean).join(separator),
      }),
    },
    fetch_title: {
      inputs: { url: "string" },
      outputs: { title: "string" },
      run: async ({ url }: { url: string }, { signal }) => {
        const response = await fetch(url, { signal }); // aborted when the job is cancelled, or out of time
        if (!response.ok) throw new JobError(`${url}: ${response.status}`, { code: "UNAVAILABLE", retryable: true });
        return { title: /<title>(.*?)<\/title>/s.exec(await response.text())?.[1] ?? "" };
      },
    },
    count: {
      inputs: { to: "integer" },
      outputs: { text: "string" },
      run: async ({ to }: { to: number }, { write, progress }) => {
        let text = "";
        for (let n = 1; n <= to; n += 1) {
          write("text", `${n} `); // streamed, if the client wants it
          text += `${n} `;
          progress({ done: n, total: to });
        }
        return { text };
      },
    },
  },
});

process.exitCode = (await worker.run()) ? 0 : 1; // until SIGTERM, and what is then left to do
// -- end
