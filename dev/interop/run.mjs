// Runs unmodified OAuth libraries against a server, and prints a table of the results.
//
// Each file in programs/ is a program: JavaScript, Python, or a folder with a crate. It runs as a
// process of its own that trusts the server's development CA by an environment variable, and talks
// to this driver by lines of JSON (lib/steps.mjs). It may start further processes.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { Browser, installedChromium } from './lib/browser.mjs'
import { commandOf, folder, runProgram, tools } from './lib/program.mjs'
import { root, Server } from './lib/server.mjs'
import { formatTable } from './lib/table.mjs'

const { values: options } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true },
    json: { type: 'string', default: join(tools, 'results.json') },
    // Writes the table into docs/interop.md.
    document: { type: 'boolean', default: false },
  },
})
const refreshes = options.short ? 3 : 20
// A program that waits for a redirect that never comes is killed.
const TIMEOUT = (options.short ? 4 : 10) * 60_000
// Programs mostly wait for the expiry of access tokens, so many of them run side by side.
const PARALLEL = 10

// Runs a program and collects its rows.
async function collectRows(file, services) {
  const { command, missing } = commandOf(join(folder, 'programs', file))
  if (missing) return [{ program: file, version: '', tried: 'install', result: missing, outcome: 'skipped' }]
  const rows = []
  let about = { program: file, version: '' }
  const onLine = (line) => {
    if (line.program) about = { program: line.program, version: line.version }
    if (line.skipped) rows.push({ ...about, tried: 'install', result: line.skipped, outcome: 'skipped' })
    if (line.tried) rows.push({ ...about, tried: line.tried, result: line.result, outcome: line.passed ? 'passed' : 'failed' })
  }
  const env = { REFRESHES: String(refreshes) }
  const { status, errors } = await runProgram(command, { ...services, env, timeout: TIMEOUT, onLine })
  if (status !== 0 && !rows.some((row) => row.outcome === 'failed')) {
    rows.push({ ...about, tried: 'run', result: status === null ? 'killed, or no end in time' : `exit status ${status}`, outcome: 'failed' })
  }
  if (status !== 0) process.stderr.write(`${file}:\n${errors.join('\n')}\n`)
  return rows
}

// Whether a file is a program of this run. A comment in its file marks a program of the long run
// only, by the text `interop: long`; `--only` chooses it also in a short run.
function isChosen(file) {
  const isScript = /\.(mjs|py)$/.test(file)
  const path = join(folder, 'programs', file, isScript ? '' : 'Cargo.toml')
  if (!existsSync(path)) return false
  if (options.only) return options.only.some((name) => file.startsWith(name))
  return !options.short || !readFileSync(path, 'utf8').includes('interop: long')
}

function writeDocument(date) {
  const path = join(root, 'docs/interop.md')
  const [before, rest] = readFileSync(path, 'utf8').split('<!-- table -->\n')
  const after = rest.slice(rest.indexOf('<!-- end of the table -->'))
  const table = formatTable(rows, { markdown: true })
  writeFileSync(path, `${before}<!-- table -->\n${date}\n\n${table}${after}`)
}

if (!installedChromium()) {
  console.log('matchbook: NOT RUN: interop (install Chromium)')
  process.exit(0)
}
// A refresh token counts as copied soon after its rotation, so that a replay ends the session. What
// the grace period does for clients is the matter of contract.mjs.
//
// oidc-agent has redirect URIs with `localhost` only.
const settings = {
  'tokens.access_lifetime': '3s',
  'oauth.grace_period': '2s',
  'oauth.allow_localhost': 'true',
}
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
const server = await Server.start({ settings })
const browser = await Browser.start()
const rows = []
try {
  const files = readdirSync(join(folder, 'programs')).filter(isChosen)
  const results = []
  const waiting = files.entries()
  const runNext = async () => {
    for (const [i, file] of waiting) results[i] = await collectRows(file, { server, browser })
  }
  await Promise.all(Array.from({ length: PARALLEL }, runNext))
  rows.push(...results.flat())
} finally {
  await browser.stop()
  await server.stop()
}
const date = new Date().toISOString().slice(0, 10)
mkdirSync(dirname(options.json), { recursive: true })
writeFileSync(options.json, `${JSON.stringify({ date, rows }, null, 2)}\n`)
if (options.document) writeDocument(date)
console.log(formatTable(rows, { markdown: false }))
const count = (outcome) => rows.filter((row) => row.outcome === outcome).length
for (const row of rows.filter((row) => row.outcome === 'skipped')) {
  console.log(`matchbook: NOT RUN: ${row.program} (${row.result})`)
}
console.log(`${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`)
process.exitCode = count('failed') ? 1 : 0
