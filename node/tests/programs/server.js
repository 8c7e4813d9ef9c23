// An npm server with a timer, a worker thread and an open file: each request takes one step in all of them.
const crypto = require("node:crypto");
const fs = require("node:fs");
const { once } = require("node:events");
const { Worker } = require("node:worker_threads");
const express = require("express");

const nonce = crypto.randomBytes(8).toString("hex");
let count = 0;
let ticks = 0;
setInterval(() => (ticks += 1), 100);

const counts = "let n = 0; require('node:worker_threads').parentPort.on('message', function () { this.postMessage(++n) })";
const worker = new Worker(counts, { eval: true });

fs.writeFileSync("/tmp/lines", Array.from({ length: 1000 }, (_, n) => `${n + 1}`.padStart(7) + "\n").join(""));
const lines = fs.openSync("/tmp/lines");

const app = express();
app.get("/", async (_, response) => {
  const line = Buffer.alloc(8);
  fs.readSync(lines, line); // from where the last one ended
  worker.postMessage("");
  const [thread] = await once(worker, "message");
  count += 1;
  response.json({ nonce, steps: { count, thread, line: Number(line.toString()) }, ticks: { timer: ticks } });
});
app.listen(8080, "0.0.0.0");
