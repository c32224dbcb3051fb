// Prints a line for whatever the workers are doing, from all six keys of the endpoint.
//
//     node snapshot.js BASE_URL TOKEN TASK_ID...

import type { components } from "./schema";

type Snapshot = components["schemas"]["CeleryStatsResponse"];
type Task = components["schemas"]["CeleryTask"];
type Failure = components["schemas"]["CeleryWorkerError"];

const [baseUrl, token, ...taskIds] = process.argv.slice(2);

async function read(): Promise<Snapshot> {
  const query = new URLSearchParams(taskIds.map((id) => ["task_id", id]));
  const response = await fetch(`${baseUrl}/api/celery-stats/?${query}`, {
    headers: { Authorization: `Token ${token}`, Accept: "application/json" },
  });
  if (!response.ok) {
    throw new Error(`${response.status}: ${await response.text()}`);
  }
  return (await response.json()) as Snapshot;
}

/** The replies of the workers that did not fail. */
function replies<Reply extends object>(
  byWorker: Record<string, Reply | Failure> | null,
): [string, Reply][] {
  return Object.entries(byWorker ?? {}).filter(
    (entry): entry is [string, Reply] => !("error" in entry[1]),
  );
}

function describe(task: Task): string {
  const args = Array.isArray(task.args) ? task.args.length : task.args;
  const began: number | null = task.time_start;
  return `${task.name}(${args}) ${began === null ? "waits" : "runs"} pid=${task.worker_pid}`;
}

const snapshot = await read();

for (const [worker, tasks] of replies(snapshot.active)) {
  for (const task of tasks) console.log("active", worker, describe(task));
}
for (const [worker, tasks] of replies(snapshot.scheduled)) {
  for (const task of tasks) {
    console.log("scheduled", worker, task.eta?.slice(0, 10), describe(task.request));
  }
}
for (const [worker, tasks] of replies(snapshot.reserved)) {
  for (const task of tasks) console.log("reserved", worker, task.delivery_info.routing_key);
}
for (const [worker, ids] of replies(snapshot.revoked)) {
  console.log("revoked", worker, ids.map((id) => id.toUpperCase()).sort().join(" "));
}
for (const [worker, states] of replies(snapshot.query_task)) {
  for (const [id, [state]] of Object.entries(states)) console.log("query_task", worker, id, state);
}
for (const [worker, stats] of replies(snapshot.stats)) {
  const pool = stats.pool;
  if (pool === "N/A") continue;
  const perChild: number | "N/A" | null | undefined = pool["max-tasks-per-child"];
  const strategy = pool.writes === undefined || pool.writes === "N/A" ? "" : pool.writes.strategy;
  const seconds = stats.rusage === "N/A" ? 0 : stats.rusage.utime + stats.rusage.stime;
  const broker = stats.broker === "N/A" ? "" : stats.broker.transport;
  console.log(
    "stats", worker, pool["max-concurrency"].toFixed(), perChild, strategy, broker, seconds > 0,
  );
}

/** Never called: what Waldur's schema promises and no worker sends must not compile. */
export function mistakes(pool: components["schemas"]["CeleryWorkerPool"]): number {
  // @ts-expect-error: the key is max-concurrency
  pool.max_concurrency.toFixed();
  // @ts-expect-error: it may be "N/A", null or absent
  return pool["max-tasks-per-child"];
}
