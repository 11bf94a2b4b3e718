// A server from target/debug, over TLS with its development CA, and its command line.
import { spawn, spawnSync } from 'node:child_process'
import { pbkdf2Sync } from 'node:crypto'
import { createInterface } from 'node:readline'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const root = new URL('../../..', import.meta.url).pathname
const binary = process.env.MATCHBOOK_SERVER ?? join(root, 'target/debug/matchbook-server')

export const account = { name: 'ann', password: 'violet tractor seven hums' }

// Returns a free port.
export async function freePort() {
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address()
  await new Promise((resolve) => listener.close(resolve))
  return port
}

// Hashes a password as Django does.
function hashOf(password) {
  const [iterations, salt] = [1000, 'salt']
  const hash = pbkdf2Sync(password, salt, iterations, 32, 'sha256').toString('base64')
  return `pbkdf2_sha256$${iterations}$${salt}$${hash}`
}

// A run that is interrupted leaves no server.
const running = new Set()
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')))

export class Server {
  // Starts a server. `settings` are by their dotted names; `issuerPort` is the port by which
  // clients reach it, if that is a proxy, whose CA is `ca`.
  static async start({ settings = {}, databaseUrl, redisUrl, issuerPort, ca } = {}) {
    const server = new Server()
    server.proxyCa = ca
    server.folder = mkdtempSync(join(tmpdir(), 'matchbook-interop-'))
    const port = await freePort()
    // The URL without a proxy.
    server.direct = `${settings['tls.mode'] === 'off' ? 'http' : 'https'}://localhost:${port}`
    server.issuer = `https://localhost:${issuerPort ?? port}`
    const all = {
      'server.address': `127.0.0.1:${port}`,
      'tokens.issuer': server.issuer,
      'tokens.audience': server.issuer,
      'metrics.address': 'off',
      ...settings,
    }
    server.env = { PATH: process.env.PATH, DATABASE_URL: databaseUrl ?? '', REDIS_URL: redisUrl ?? '' }
    for (const [name, value] of Object.entries(all)) {
      server.env[`MATCHBOOK__${name.replace('.', '__').toUpperCase()}`] = value
    }
    await server.launch()
    server.addUser(account.name)
    return server
  }

  get tlsFolder() {
    return join(this.folder, 'data/tls')
  }

  get ca() {
    return this.proxyCa ?? join(this.tlsFolder, 'ca.pem')
  }

  // Variables by which programs of each language trust the CA.
  get trust() {
    return { NODE_EXTRA_CA_CERTS: this.ca, REQUESTS_CA_BUNDLE: this.ca, SSL_CERT_FILE: this.ca }
  }

  async launch() {
    this.log = []
    this.child = spawn(binary, [], { cwd: this.folder, env: this.env, stdio: ['ignore', 'pipe', 'pipe'] })
    const { child } = this
    running.add(child)
    child.once('exit', () => running.delete(child))
    createInterface({ input: child.stderr }).on('line', (line) => this.log.push(line))
    await new Promise((resolve, reject) => {
      createInterface({ input: this.child.stdout }).on('line', (line) => {
        this.log.push(line)
        if (line.includes(' listens on ')) resolve()
      })
      this.child.once('error', reject)
      this.child.once('exit', () => reject(new Error(`the server has ended:\n${this.log.join('\n')}`)))
    })
  }

  // Kills the process and starts another one.
  async relaunch() {
    const ended = once(this.child, 'exit')
    this.child.kill('SIGKILL')
    await ended
    await this.launch()
  }

  // Runs a command and returns what it prints.
  run(args, input = '') {
    const { status, stdout, stderr } = spawnSync(binary, args, { cwd: this.folder, env: this.env, input })
    if (status !== 0) throw new Error(`${args.join(' ')}: ${stderr}`)
    return stdout.toString()
  }

  // Adds a user with the password of `account`. Only the import adds a verified email address.
  addUser(name, { displayName, groups = [], isVerified = false } = {}) {
    if (isVerified) {
      const file = join(this.folder, 'users.jsonl')
      const line = { name, display_name: displayName, email_verified: true, password_hash: hashOf(account.password) }
      writeFileSync(file, JSON.stringify(line))
      this.run(['users', 'import', file])
    } else {
      const options = displayName ? ['--display-name', displayName] : []
      this.run(['users', 'add', name, '--password-stdin', ...options], `${account.password}\n`)
    }
    for (const group of groups) this.run(['users', 'group', 'add', name, group])
  }

  addClient(name, options) {
    return JSON.parse(this.run(['clients', 'add', name, '--json', ...options]))
  }

  async stop() {
    if (this.child.exitCode === null) {
      const ended = once(this.child, 'exit')
      this.child.kill('SIGTERM')
      await ended
    }
    rmSync(this.folder, { recursive: true, force: true })
  }
}
