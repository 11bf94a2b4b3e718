// What a program in JavaScript uses to talk to run.mjs: one JSON object per line.
//
// A program announces itself, asks for what only run.mjs can do (register a client, open the
// browser), and reports each step with its result.
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

export const issuer = process.env.ISSUER
export const refreshes = Number(process.env.REFRESHES)
const responses = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

// Reports a line to the driver.
export const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

// Announces the program with the installed version of its package.
export const announce = (name) => announceAs(name, name)

// Announces a program under another name than that of its package.
export function announceAs(program, name) {
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url)
  report({ program, version: JSON.parse(readFileSync(manifest)).version })
}

// Announces a program that is no package.
export const announceVersion = (program, version) => report({ program, version })

// Ends a program that cannot be installed here. It is listed as skipped.
export function skip(program, reason) {
  report({ program, version: '', skipped: reason })
  process.exit(0)
}

// Asks run.mjs for something, and waits for the response.
export async function ask(what, values = {}) {
  report({ ask: what, ...values })
  const response = JSON.parse((await responses.next()).value)
  if (response.error) throw new Error(response.error)
  return response
}

// Runs a command of the server, and returns what it prints.
export const command = async (...args) => (await ask('command', { args })).output

// Runs a step and reports its result. The program ends if the step fails.
export async function step(tried, run) {
  try {
    report({ tried, result: (await run()) ?? 'passed', passed: true })
  } catch (error) {
    report({ tried, result: `${error.message} ${error.cause?.message ?? ''}`.trim(), passed: false })
    process.stderr.write(`${error.stack}\n`)
    process.exit(1)
  }
}

// Returns the status of the API of the server for an access token.
export async function apiStatus(accessToken) {
  const response = await fetch(`${issuer}/user`, { headers: { authorization: `Bearer ${accessToken}` } })
  await response.arrayBuffer()
  return response.status
}

// Waits until the API rejects an access token.
export async function expiry(accessToken) {
  for (let i = 0; i < 600; i++) {
    if ((await apiStatus(accessToken)) === 401) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error('the access token does not expire')
}

// Waits for the expiry of the access token and refreshes, as many times as configured. Returns the
// last tokens. `refresh` gets the refresh token and returns `{ access_token, refresh_token }`.
export async function refreshRepeatedly(tokens, refresh) {
  for (let i = 0; i < refreshes; i++) {
    await expiry(tokens.access_token)
    const before = tokens.refresh_token
    tokens = await refresh(before)
    assert.notEqual(tokens.refresh_token, before)
    assert.equal(await apiStatus(tokens.access_token), 200)
  }
  return tokens
}

// Asserts that a call fails with an error of OAuth, by a function that finds its code.
export async function rejected(code, call, codeOf) {
  let outcome
  try {
    outcome = await call()
  } catch (error) {
    assert.equal(codeOf(error), code, error.stack)
    return
  }
  assert.fail(`expected ${code}, got ${JSON.stringify(outcome)}`)
}

// Asserts that a session has ended: the server rejects its refresh token. (The API may reject the
// access token because it has expired.)
export async function assertEnded({ client_id, client_secret }, refreshToken) {
  const form = { grant_type: 'refresh_token', refresh_token: refreshToken, client_id }
  if (client_secret) form.client_secret = client_secret
  const response = await fetch(`${issuer}/oauth/token`, { method: 'POST', body: new URLSearchParams(form) })
  const body = await response.json()
  assert.equal(body.error, 'invalid_grant', JSON.stringify(body))
  assert.equal(body.reason, 'logged_out', JSON.stringify(body))
}
