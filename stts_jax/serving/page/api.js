// What the server is asked, and what it answers.

let key = sessionStorage.getItem("stts-key") || "";

export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem("stts-key", key);
}

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server can't be reached; is it running?", 0);
  }
  if (response.ok) return response;
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not from the server itself */ }
  throw new ServerError(message, response.status);
}

const asJson = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

export async function models() {
  return (await (await send("v1/models")).json()).data.map((each) => each.id);
}

export async function upload(file) {
  const kind = /^(video|image)\//.test(file.type) ? file.type : "application/octet-stream";
  const options = { method: "POST", headers: { "Content-Type": kind }, body: file };
  const said = await (await send("v1/media", options)).json();
  return { url: said.url, type: file.type === "image/gif" ? "video" : said.type };
}

export async function kept(media, settings, signal) {
  return (await send("v1/kept", asJson({ ...media, ...settings }, signal))).json();
}

// Calls `onText` with each piece; returns the counts and times of the answer.
export async function ask(request, onText, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", asJson(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const facts = {};
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) take(line, onText, facts);
  }
  if (!facts.ended) throw new ServerError("The answer was cut off; ask again.", 0);
  return facts;
}

function take(line, onText, facts) {
  if (line === "data: [DONE]") facts.ended = true;
  if (!line.startsWith("data: {")) return;
  const event = JSON.parse(line.slice(6));
  if (event.error) throw new ServerError(event.error.message, 500);
  for (const choice of event.choices) {
    if (choice.delta.content) onText(choice.delta.content);
    if (choice.finish_reason) facts.reason = choice.finish_reason;
  }
  if (event.usage) facts.usage = event.usage;
  if (event.timings) facts.timings = event.timings;
}
