// The contract of rotation under faults, with unmodified clients: processes of
// openid-client, Authlib and the `oauth2` crate share one token file without a lock, and refresh
// at the same time, while responses are lost, the server is unavailable, the database restarts,
// the server is killed, and a request arrives 76 s late.
//
// No user may be sent to the login page, and the session must have one chain of refresh tokens.
// After that, a replay later than the grace period must end the session.
import { spawn } from 'node:child_process'
import { strict as assert } from 'node:assert'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Browser, installedChromium } from './lib/browser.mjs'
import { createCertificate } from './lib/commands.mjs'
import { Proxy } from './lib/proxy.mjs'
import { freePort, root, Server } from './lib/server.mjs'
import { chainOf, sessionsInDatabase } from './lib/sessions.mjs'

const { values: options } = parseArgs({
  options: {
    processes: { type: 'string', default: '20' },
    // Every duration is multiplied by this. 1: as in production.
    scale: { type: 'string', default: '1' },
  },
})
const scale = Number(options.scale)
const seconds = (value) => Math.round(value * scale * 10) / 10
// A process refreshes 20 s before the expiry, so the token is rotated every 100 s, and a request
// that is 76 s late arrives before the next rotation.
const LIFETIME = seconds(120)
const MARGIN = seconds(20)
const LATE = seconds(76)
const GRACE = seconds(120)
const ROTATIONS = 4

const tools = join(root, 'target/interop')
const folder = mkdtempSync(join(tmpdir(), 'matchbook-contract-'))
const tokenFile = join(folder, 'tokens.json')
const pause = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000))
const say = (text) => console.log(`matchbook: contract: ${text}`)
const wholeSeconds = (value) => `${Math.round(value)}s`

// Returns the commands of the programs that are installed.
function commands() {
  const all = {
    'openid-client': [process.execPath, join(root, 'dev/interop/contract/openid-client.mjs')],
    Authlib: [join(tools, 'python/bin/python'), join(root, 'dev/interop/contract/authlib_process.py')],
    'oauth2 (Rust crate)': [join(tools, 'rust/debug/matchbook-interop-oauth2'), 'share'],
  }
  for (const [name, [program]] of Object.entries(all)) {
    if (existsSync(program)) continue
    say(`NOT RUN: ${name} (it is not installed)`)
    delete all[name]
  }
  return all
}

// Decides what happens to each token request. Each generation is presented by many processes at
// once. Their requests get these fates in turn.
class Nemesis {
  fates = ['lose response', 'unavailable', 'pass', 'unavailable after', 'late', 'lose request', 'pass']
  // How often each generation was presented, by its refresh token.
  presented = new Map()
  counts = {}
  isActive = false

  constructor(disturb) {
    this.disturb = disturb
  }

  fate({ refresh_token: token }) {
    if (!this.isActive || !token) return 'pass'
    const before = this.presented.get(token) ?? 0
    this.presented.set(token, before + 1)
    if (before === 0) this.disturb(this.presented.size)
    // After one round of faults the rest passes, except for the late request: it comes once.
    const name = before < 2 * this.fates.length ? this.fates[before % this.fates.length] : 'pass'
    const isSecondLate = name === 'late' && before >= this.fates.length
    const fate = isSecondLate ? 'pass' : name
    this.counts[fate] = (this.counts[fate] ?? 0) + 1
    return fate === 'late' ? { late: LATE * 1000 } : fate
  }
}

// Logs in through Chromium and returns the tokens.
async function logIn({ issuer, client, redirectUri, browser }) {
  const verifier = randomBytes(32).toString('base64url')
  const url = new URL(`${issuer}/oauth/authorize`)
  url.search = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'read',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  })
  const user = await browser.user()
  const { url: returned } = await user.visit(url.href, { until: redirectUri })
  await user.leave()
  return {
    grant_type: 'authorization_code',
    code: new URL(returned).searchParams.get('code'),
    redirect_uri: redirectUri,
    code_verifier: verifier,
  }
}

// Sends a token request straight to the server.
async function request(server, client, form) {
  const basic = Buffer.from(`${client.client_id}:${client.client_secret}`).toString('base64')
  const response = await fetch(`${server.direct}/oauth/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams(form),
  })
  return { status: response.status, body: await response.json() }
}

// Starts the processes. `outcomes` collects what they report, for each program.
async function startProcesses(env, outcomes) {
  const programs = Object.entries(commands())
  const ready = []
  const children = Array.from({ length: Number(options.processes) }, (_, i) => {
    const [name, command] = programs[i % programs.length]
    outcomes[name] ??= { processes: 0, refreshed: 0, failed: {}, logins: [] }
    const outcome = outcomes[name]
    outcome.processes += 1
    const child = spawn(command[0], command.slice(1), { env, stdio: ['pipe', 'pipe', 'inherit'] })
    ready.push(
      new Promise((resolve, reject) => {
        child.once('exit', (status) => reject(new Error(`${name} has ended: ${status}`)))
        createInterface({ input: child.stdout }).on('line', (text) => {
          const line = JSON.parse(text)
          if (line.ready) resolve()
          if (line.refreshed) outcome.refreshed += 1
          if (line.failed) outcome.failed[line.failed] = (outcome.failed[line.failed] ?? 0) + 1
          if ('login' in line) outcome.logins.push(line.login)
        })
      }),
    )
    return child
  })
  await Promise.all(ready)
  return async () => {
    const ended = children.map(
      (child) => child.exitCode ?? new Promise((resolve) => child.once('exit', resolve)),
    )
    for (const child of children) child.stdin.end()
    await Promise.all(ended)
  }
}

if (!installedChromium() || Object.keys(commands()).length === 0) {
  say('NOT RUN: install Chromium, and the libraries')
  process.exit(0)
}

const tls = createCertificate()
const port = await freePort()
const server = await Server.start({
  issuerPort: port,
  ca: tls.cert,
  databaseUrl: process.env.TEST_DATABASE_URL,
  redisUrl: process.env.TEST_REDIS_URL,
  settings: {
    'tls.mode': 'off',
    'tokens.access_lifetime': wholeSeconds(LIFETIME),
    'oauth.grace_period': wholeSeconds(GRACE),
  },
})
const restart = process.env.INTEROP_RESTART_DATABASE
const faults = []
// The exit status of the restart.
let restarted
const nemesis = new Nemesis((generation) => {
  if (generation === 2 && restart) {
    faults.push('database restarted')
    const command = spawn(restart, { stdio: 'ignore' })
    restarted = new Promise((resolve) => command.once('exit', resolve))
  }
  if (generation === 3) {
    faults.push('server killed')
    server.relaunch().catch((error) => say(error.message))
  }
})
const proxy = await Proxy.start({
  target: server.direct,
  port,
  certificate: { key: readFileSync(tls.key), cert: readFileSync(tls.cert) },
  fate: (form) => nemesis.fate(form),
})
const browser = await Browser.start()
const outcomes = {}
let stopProcesses = async () => {}
try {
  const redirectUri = browser.redirectUri('contract')
  const client = server.addClient('contract', ['--confidential', '--first-party', '--scope', 'read', '--redirect-uri', redirectUri])
  const exchange = await logIn({ issuer: server.issuer, client, redirectUri, browser })
  const { body: first } = await request(server, client, exchange)
  assert.ok(first.refresh_token, JSON.stringify(first))
  const expiresAt = Date.now() / 1000 + first.expires_in
  writeFileSync(tokenFile, JSON.stringify({ ...first, expires_at: expiresAt }))
  const env = {
    PATH: process.env.PATH,
    ISSUER: server.issuer,
    CLIENT_ID: client.client_id,
    CLIENT_SECRET: client.client_secret,
    TOKEN_FILE: tokenFile,
    MARGIN: String(MARGIN),
    ...server.trust,
  }
  nemesis.isActive = true
  stopProcesses = await startProcesses(env, outcomes)
  say(`${options.processes} processes, ${ROTATIONS} rotations, one every ${LIFETIME - MARGIN} s, late requests by ${LATE} s`)
  await pause(ROTATIONS * (LIFETIME - MARGIN) + LATE)
  nemesis.isActive = false
  await stopProcesses()
  // Requests that are still late must arrive before the check.
  const open = () => proxy.exchanges.some(({ fate, respondedAt, error }) => fate.late && !respondedAt && !error)
  while (open()) await pause(0.1)

  const logins = Object.values(outcomes).flatMap(({ logins }) => logins)
  assert.deepEqual(logins, [], 'no process needs a new login')
  const chain = chainOf(proxy.exchanges, first.refresh_token)
  say(`faults: ${JSON.stringify(nemesis.counts)} ${faults.join(', ')}`)
  for (const [name, { processes, refreshed, failed }] of Object.entries(outcomes)) {
    say(`${name}: ${processes} processes, ${refreshed} responses with tokens, errors ${JSON.stringify(failed)}`)
    assert.ok(refreshed > 0, `${name} never refreshes`)
  }
  say(`${chain.length - 1} rotations, ${logins.length} new logins`)
  assert.ok(chain.length - 1 >= ROTATIONS, 'there were enough rotations')
  assert.ok(faults.includes('server killed'), 'the server was killed')
  if (restart) assert.equal(await restarted, 0, 'the database was restarted')
  const rejections = proxy.exchanges.filter(({ status }) => status >= 400 && status !== 503)
  assert.deepEqual(rejections.map(({ body }) => body), [])
  const sessions = sessionsInDatabase(server)
  assert.equal(sessions.length, 1, sessions.join('\n'))
  assert.match(sessions[0], /[| ](f|0)$/)
  const late = proxy.exchanges.filter(({ fate, status }) => fate.late && status === 200)
  assert.ok(late.length > 0, 'a late request was successful')
  say(`${late.length} requests came ${LATE} s late and got the same successor`)

  await pause(GRACE + 1)
  const replay = await request(server, client, { grant_type: 'refresh_token', refresh_token: chain.at(-2) })
  assert.equal(replay.body.error, 'invalid_grant', JSON.stringify(replay.body))
  const current = await request(server, client, { grant_type: 'refresh_token', refresh_token: chain.at(-1) })
  assert.equal(current.body.error, 'invalid_grant', JSON.stringify(current.body))
  assert.equal(current.body.reason, 'reuse')
  say('a replay after the grace period has ended the session')
  console.log('1 passed, 0 failed')
} catch (error) {
  console.error(error)
  console.error(server.log.slice(-40).join('\n'))
  console.log('0 passed, 1 failed')
  process.exitCode = 1
} finally {
  nemesis.isActive = false
  await stopProcesses()
  await browser.stop()
  proxy.stop()
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
}
