// Runs a program as a process, and serves what it asks for by lines of JSON (lib/steps.mjs).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import { root } from './server.mjs'

export const folder = join(root, 'dev/interop')
// What scripts/interop installs outside of npm.
export const tools = join(root, 'target/interop')

// Kills the processes that a program started, too: it leads a process group.
function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {}
}
const running = new Set()
process.once('exit', () => running.forEach(killGroup))

// Returns the command of a program by its path, or why it cannot run.
export function commandOf(path) {
  if (path.endsWith('.mjs')) return { command: [process.execPath, path] }
  if (path.endsWith('.py')) {
    const name = basename(path, '.py')
    const hasOwnPackages = existsSync(join(folder, 'requirements', `${name}.txt`))
    const python = join(tools, hasOwnPackages ? `venv/${name}` : 'python', 'bin/python')
    return existsSync(python) ? { command: [python, path] } : { missing: 'its Python packages are not installed' }
  }
  const name = readFileSync(join(path, 'Cargo.toml'), 'utf8').match(/^name = "(.*)"/m)[1]
  const binary = join(tools, 'rust/debug', name)
  return existsSync(binary) ? { command: [binary] } : { missing: 'it is not built' }
}

// What a program may ask for.
function servicesOf({ server, browser, user }) {
  return {
    // `redirectUri: null` registers none.
    client: ({ name, options, redirectUri = browser.redirectUri(name) }) => {
      const redirect = redirectUri ? ['--redirect-uri', redirectUri] : []
      return { ...server.addClient(name, [...options, ...redirect]), redirect_uri: redirectUri }
    },
    // Another user than `account`, who visits the pages from now on.
    user: ({ name, ...properties }) => {
      server.addUser(name, properties)
      user.name = name
      return {}
    },
    command: ({ args, input }) => ({ output: server.run(args, input) }),
    visit: ({ url, ...condition }) => user.visit(url, condition),
    send: ({ url }) => user.send(url),
  }
}

// Runs a program to its end. `onLine` gets each line that it reports. `services` gets what every
// program may ask for, and returns what this one may ask for besides. Returns its status (null if it was killed) and what it printed as errors.
export async function runProgram(command, { server, browser, env, timeout, onLine, services = () => ({}) }) {
  const user = await browser.user()
  const temporary = mkdtempSync(join(tmpdir(), 'matchbook-program-'))
  // Some servers change to another user.
  chmodSync(temporary, 0o755)
  const child = spawn(command[0], command.slice(1), {
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      PYTHONPATH: join(folder, 'lib'),
      PYTHONDONTWRITEBYTECODE: '1',
      ISSUER: server.issuer,
      CA: server.ca,
      HOME: temporary,
      TMPDIR: temporary,
      TOOLS: tools,
      // For programs that start a server with settings of their own.
      ...(process.env.MATCHBOOK_SERVER && { MATCHBOOK_SERVER: process.env.MATCHBOOK_SERVER }),
      ...server.trust,
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
  })
  const ended = once(child, 'exit')
  running.add(child.pid)
  const timer = setTimeout(() => killGroup(child.pid), timeout)
  const errors = []
  createInterface({ input: child.stderr }).on('line', (line) => errors.push(line))
  const standard = servicesOf({ server, browser, user })
  const all = { ...standard, ...services(standard) }
  for await (const text of createInterface({ input: child.stdout })) {
    if (!text.startsWith('{')) continue
    const line = JSON.parse(text)
    onLine(line)
    if (!line.ask) continue
    const response = await Promise.resolve(line)
      .then(all[line.ask])
      .catch((error) => ({ error: error.message }))
    child.stdin.write(`${JSON.stringify(response)}\n`)
  }
  const [status] = await ended
  killGroup(child.pid)
  running.delete(child.pid)
  clearTimeout(timer)
  rmSync(temporary, { recursive: true, force: true, maxRetries: 10 })
  await user.leave()
  return { status, errors }
}
