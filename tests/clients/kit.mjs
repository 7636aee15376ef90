// What every Node script shares: where Headgate is, and how a check reports. The same as kit.py.

export const URL_ = process.env.HEADGATE_URL;
export const V1 = URL_ + "/v1";
export const KEY = process.env.HEADGATE_KEY;
export const WRONG_KEY = "hg-wrong";
export const MODEL = process.env.HEADGATE_MODEL;
export const CLAUDE = process.env.HEADGATE_CLAUDE;
export const GREETING = "Hello from the upstream.";
export const QUESTION = "What is the weather in Paris and in Oslo?";
export const PERSON = "Who is the person? Ada is 36.";
export const WEATHER = { Paris: "21 C, sunny", Oslo: "4 C, rain" };
export const ADA = { name: "Ada", age: 36 };

const checks = [];

export const check = (name, action) => checks.push([name, action]);

export async function run() {
  for (const [name, action] of checks) {
    if (process.env.HEADGATE_CHECK && !name.includes(process.env.HEADGATE_CHECK)) continue;
    try {
      report(name, true, String((await action()) ?? ""));
    } catch (error) {
      const where = (error.stack ?? "").split("\n").find((line) => line.includes("try_") || line.includes("matrix"));
      report(name, false, `${error.constructor?.name}: ${error.message} ${(where ?? "").trim()}`);
    }
  }
}

const report = (name, ok, detail) => console.log("@@" + JSON.stringify({ check: name, ok, detail }));

export function same(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`got ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
}

export function within(part, whole) {
  if (!String(whole).includes(part)) throw new Error(`${JSON.stringify(part)} is not in ${JSON.stringify(whole)}`);
}

export const answeredWithTheWeather = (text) => Object.values(WEATHER).forEach((weather) => within(weather, text));

export async function refused(errorClass, action, mention = "") {
  let result;
  try {
    result = await action();
  } catch (error) {
    if (!(error instanceof errorClass)) throw error;
    within(mention, error.message);
    return error.constructor.name;
  }
  throw new Error(`no ${errorClass.name}, but ${JSON.stringify(result)}`);
}

export async function collected(iterable) {
  const found = [];
  for await (const item of iterable) found.push(item);
  return found;
}

/** The newest ledger rows of this client's tenant, newest last, once nothing is being settled. */
export async function ledger(rows = 1) {
  let before;
  for (let turn = 0; turn < 100; turn++) {
    const answer = await fetch(URL_ + "/admin/ledger?limit=20", { headers: { authorization: "Bearer " + KEY } });
    const found = (await answer.json()).data.sort((a, b) => a.ended_at - b.ended_at);
    if (before === JSON.stringify(found)) return found.slice(-rows);
    before = JSON.stringify(found);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  throw new Error("the ledger does not come to rest");
}

/** The client read what the ledger booked for the last so many requests. `input` includes cached tokens. */
export async function sameUsage(input, output, cached, rows = 1) {
  const booked = await ledger(rows);
  const sum = (column) => booked.reduce((total, row) => total + row[column], 0);
  same([input, output, cached], [sum("input_tokens"), sum("output_tokens"), cached === undefined ? undefined : sum("cache_read_input_tokens")]);
  return `${input} in, ${output} out`;
}
