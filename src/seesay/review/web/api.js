// Requests to the server of this page; paths are relative, below the token of the address.

/** Returns the content of a response, or throws an error with the server's message. */
async function receive(reply) {
  const content = await reply.json().catch(() => null);
  if (!reply.ok || !content) throw new Error(content?.error?.message ?? `The server responded with status ${reply.status}; try again`);
  return content;
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Is `seesay review` still running? Changes that it received are kept.");
  }
}

export async function getRows() {
  return receive(await send("api/rows"));
}

/** Sends an action, one after the other, so that the server performs them in the order of the user. */
let last = Promise.resolve();

export function perform(action, content) {
  const request = last.then(async () => receive(await send(`api/${action}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content()),
  })));
  last = request.catch(() => {});
  return request;
}

export async function getExport() {
  const reply = await send("api/export");
  if (!reply.ok) await receive(reply);
  return reply.blob();
}

export const thumbnail = (row, size) => `thumbnails/${row}?size=${size}`;
