// Unmodified clients stay logged in for an hour, with access tokens of 20 s and a fault each minute.
//
// Each file in soak/ is a program that logs in once through Chromium, and uses its login every few
// seconds, through a proxy. The run fails if a program asks for a login, if the server rejects a
// token, or if a logout at the end does not end a session.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { Browser, installedChromium } from './lib/browser.mjs'
import { createCertificate } from './lib/commands.mjs'
import { Faults, loseRedis } from './lib/faults.mjs'
import { Gate } from './lib/gate.mjs'
import { Member } from './lib/member.mjs'
import { folder, tools } from './lib/program.mjs'
import { Proxy } from './lib/proxy.mjs'
import { freePort, root, Server } from './lib/server.mjs'
import { sessionsInDatabase } from './lib/sessions.mjs'
import { replaceSection, soakReport } from './lib/soak-report.mjs'

const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    only: { type: 'string', multiple: true },
    json: { type: 'string', default: join(tools, 'soak.json') },
    // Writes the result into docs/interop.md.
    document: { type: 'boolean', default: false },
  },
})
const minutes = Number(options.minutes)
const LIFETIME = 20
// A short run has each fault nevertheless.
const INTERVAL = Math.min(60, minutes * 5.5)
const pause = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000))
const say = (text) => console.log(`matchbook: soak: ${new Date().toISOString().slice(11, 19)} ${text}`)

if (!installedChromium()) {
  say('NOT RUN: install Chromium')
  process.exit(0)
}
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

const restart = process.env.INTEROP_RESTART_DATABASE
const redisUrl = process.env.TEST_REDIS_URL
const gate = redisUrl && (await Gate.start(redisUrl))
const tls = createCertificate()
const port = await freePort()
const server = await Server.start({
  issuerPort: port,
  ca: tls.cert,
  databaseUrl: process.env.TEST_DATABASE_URL,
  redisUrl: gate?.url,
  // oidc-agent has redirect URIs with `localhost` only.
  settings: { 'tls.mode': 'off', 'tokens.access_lifetime': `${LIFETIME}s`, 'oauth.allow_localhost': 'true' },
})

const ofServices = { 'server killed': () => server.relaunch() }
if (restart) {
  ofServices['database restarted'] = async () => {
    const [status] = await once(spawn(restart, { stdio: 'ignore' }), 'exit')
    if (status !== 0) throw new Error('the database did not restart')
  }
}
if (gate) {
  const flush = () => once(spawn('redis-cli', ['-u', redisUrl, 'flushall'], { stdio: 'ignore' }), 'exit')
  ofServices['Redis gone for 10 s'] = () => loseRedis(gate, flush)
}
const faults = new Faults(ofServices)

const programs = readdirSync(join(folder, 'soak'))
  .filter((file) => !options.only || options.only.some((name) => file.startsWith(name)))
  .map((file) => new Member(join(folder, 'soak', file)))
const memberOf = (client) => programs.find(({ clients }) => clients.has(client))
const failures = []
const proxy = await Proxy.start({
  target: server.direct,
  port,
  certificate: { key: readFileSync(tls.key), cert: readFileSync(tls.cert) },
  fate: (form, client) => faults.fate(form, memberOf(client)),
  observe: (exchange) => {
    memberOf(exchange.client)?.observe(exchange)
    const { status, path, body } = exchange
    if (status >= 500 && status !== 503) failures.push(`${path}: ${status} ${body}`)
  },
})
const browser = await Browser.start()
let turn = 'use'

async function stayLoggedIn() {
  const end = Date.now() + minutes * 60_000
  while (Date.now() + INTERVAL * 1000 <= end) {
    const next = Date.now() + INTERVAL * 1000
    const name = await faults.next()
    await pause((next - Date.now()) / 1000)
    const { requests } = faults.count()
    say(`${name}${requests ? `, ${requests} requests so far` : ''}`)
    reportFailures()
  }
  faults.end()
  await pause(Math.max(15, (end - Date.now()) / 1000))
  reportFailures()
}

function reportFailures() {
  for (const program of programs) {
    program.checkUse()
    for (const text of program.failures.splice(0)) report(text)
  }
}

function report(text) {
  failures.push(text)
  say(`FAILED: ${text}`)
}

try {
  const timeout = (minutes + 15) * 60_000
  const ended = programs.map((program) => program.run({ server, browser, timeout, turn: () => turn }))
  await Promise.all(programs.map(({ ready }) => ready))
  const present = programs.filter(({ skipped }) => !skipped)
  say(`${present.length} programs are logged in: ${present.map(({ name, version }) => `${name} ${version}`.trim()).join(', ')}`)
  for (const text of present.flatMap(({ failures }) => failures)) throw new Error(text)
  await stayLoggedIn()
  turn = 'logout'
  await Promise.all(ended)

  for (const program of present) program.check((minutes * 60) / LIFETIME / 2)
  for (const text of present.flatMap((program) => program.failures)) report(text)
  const sessions = sessionsInDatabase(server)
  const active = sessions.filter((row) => !/[| ](t|1|True)$/.test(row))
  if (active.length) report(`${active.length} of ${sessions.length} sessions have not ended`)
  if (sessions.length !== present.length) report(`${sessions.length} sessions of ${present.length} programs`)
  const result = { date: new Date().toISOString().slice(0, 10), minutes, lifetime: LIFETIME, failures, ...soakReport(programs, faults) }
  mkdirSync(dirname(options.json), { recursive: true })
  writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`)
  console.log(result.text)
  for (const { name, skipped } of programs) if (skipped) say(`NOT RUN: ${name} (${skipped})`)
  if (options.document) replaceSection(join(root, 'docs/interop.md'), result)
} catch (error) {
  console.error(error)
  report(error.message)
} finally {
  if (failures.length) console.error(server.log.slice(-40).join('\n'))
  await browser.stop()
  proxy.stop()
  await server.stop()
  gate?.stop()
}
console.log(failures.length ? `${failures.length} failures` : 'passed: no program asks for a login')
process.exit(failures.length ? 1 : 0)
