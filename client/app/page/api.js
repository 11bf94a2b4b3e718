// Calls to the client app.

export const LOGIN = "/api/login";

const COOKIE_RETRIES = 4;
const COOKIE_RETRY_DELAY = 300;

/** An error response of the client app, or no response. */
export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

let loginInProgress = null;

/** Returns the JSON of a successful response. Throws an ApiError for any other. */
export async function call(method, path, retries = COOKIE_RETRIES) {
  if (path === LOGIN) {
    loginInProgress = send(method, path).finally(() => { loginInProgress = null; });
    return loginInProgress;
  }
  // A login changes the cookie, and its event may arrive before its response.
  await loginInProgress?.catch(() => {});
  try {
    return await send(method, path);
  } catch (error) {
    // Another tab may be logging in.
    if (error.code !== "no_cookie" || retries === 0) throw error;
    await new Promise((resolve) => setTimeout(resolve, COOKIE_RETRY_DELAY));
    return call(method, path, retries - 1);
  }
}

async function send(method, path) {
  let response;
  try {
    response = await fetch(path, { method, headers: { "X-Matchbook": "page" } });
  } catch {
    throw new ApiError("client_unavailable", "The client app does not respond. Is it running?");
  }
  const text = await response.text();
  let body = {};
  try {
    body = text === "" ? {} : JSON.parse(text);
  } catch {
    // The response is from a proxy; its status is enough.
  }
  if (!response.ok) {
    throw new ApiError(body.error ?? "unknown", body.message ?? `Request failed with status ${response.status}.`);
  }
  return body;
}
