// Calls to the client app.

export const GUEST_LOGIN = "/api/login";
export const LOG_IN = "/api/account/login";
export const REGISTER = "/api/account/register";

// These change the cookie.
const LOGINS = [GUEST_LOGIN, LOG_IN, REGISTER];

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
export async function call(method, path, body = undefined, retries = COOKIE_RETRIES) {
  if (LOGINS.includes(path)) {
    loginInProgress = send(method, path, body).finally(() => { loginInProgress = null; });
    return loginInProgress;
  }
  // A login changes the cookie, and its event may arrive before its response.
  await loginInProgress?.catch(() => {});
  try {
    return await send(method, path, body);
  } catch (error) {
    // Another tab may be logging in.
    if (error.code !== "no_cookie" || retries === 0) throw error;
    await new Promise((resolve) => setTimeout(resolve, COOKIE_RETRY_DELAY));
    return call(method, path, body, retries - 1);
  }
}

async function send(method, path, body) {
  const headers = { "X-Matchbook": "page" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new ApiError("client_unavailable", "The client app does not respond. Is it running?");
  }
  const text = await response.text();
  let json = {};
  try {
    json = text === "" ? {} : JSON.parse(text);
  } catch {
    // The response is from a proxy; its status is enough.
  }
  if (!response.ok) {
    throw new ApiError(json.error ?? "unknown", json.message ?? `Request failed with status ${response.status}.`);
  }
  return json;
}
