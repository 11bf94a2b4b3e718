// What the programs that are web apps have in common. Their pages are JSON with a field `page`.
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { apiStatus, ask, expiry, issuer } from './steps.mjs'

// What an app asks for to know its user, and to refresh.
export const scope = 'openid profile email groups offline_access'

// Starts a web server, whose port the client must be registered with. Returns its origin, and a
// function that serves an app.
export async function listen() {
  const listener = createServer()
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const origin = `http://127.0.0.1:${listener.address().port}`
  return { origin, serve: (app) => listener.on('request', app) }
}

const displayName = 'Ann Example'
const groups = ['staff']

// Adds the user of an app. The login name is an email address, so that the app gets one.
export async function addUser(email) {
  await ask('user', { name: email, displayName, groups })
  return email
}

// Registers a web app. After a logout, the server sends the browser to its page /goodbye.
export function register(name, { origin, callback = '/callback', options = [] }) {
  return ask('client', {
    name,
    redirectUri: origin + callback,
    options: ['--confidential', '--first-party', '--post-logout-redirect-uri', `${origin}/goodbye`, ...options],
  })
}

// Opens a page of the app in Chromium. Returns its JSON, and how often the user has typed the
// password so far.
export async function open(url) {
  const { text, passwords } = await ask('visit', { url, untilText: '"page"' })
  return { ...JSON.parse(text.slice(text.indexOf('{'), text.lastIndexOf('}') + 1)), passwords }
}

// Asserts that these are the claims of the user.
export function assertUser(claims, email) {
  assert.ok(claims.sub)
  assert.equal(claims.name, displayName)
  assert.equal(claims.email, email)
  assert.equal(claims.email_verified, false)
  assert.deepEqual(claims.groups, groups)
}

// Waits until the app knows that its access token has expired: `expires_in` is rounded up to seconds,
// and counts from the arrival of the response.
export async function clientExpiry(accessToken) {
  await expiry(accessToken)
  await new Promise((resolve) => setTimeout(resolve, 1500))
}

// Ends a session by its refresh token, as another server would.
export async function revoke(client, refreshToken) {
  const response = await post('revoke', client, { token: refreshToken })
  assert.equal(response.status, 200)
}

// Asserts that a session has ended: the server rejects both tokens.
export async function assertEnded(client, { access_token: accessToken, refresh_token: refreshToken }) {
  assert.equal(await apiStatus(accessToken), 401)
  const response = await post('token', client, { grant_type: 'refresh_token', refresh_token: refreshToken })
  assert.equal((await response.json()).error, 'invalid_grant')
}

// Logs out at the app, which logs out at the server, and logs in again. `latest` returns the tokens
// of the app.
export async function logOut(client, { origin, latest, logIn = () => open(`${origin}/login`) }) {
  const tokens = latest()
  const { page, passwords } = await open(`${origin}/logout`)
  assert.equal(page, 'goodbye')
  await assertEnded(client, tokens)
  const again = await logIn()
  assert.equal(again.passwords, passwords + 1)
  return 'both tokens are rejected, and the next login asks for the password'
}

function post(endpoint, client, form) {
  const basic = Buffer.from(`${client.client_id}:${client.client_secret}`).toString('base64')
  return fetch(`${issuer}/oauth/${endpoint}`, {
    method: 'POST',
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams(form),
  })
}
