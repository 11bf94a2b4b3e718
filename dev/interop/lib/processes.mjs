// Processes that a program starts, such as the server that uses Matchbook, and their files. Both
// end with the program.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, chmodSync, constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

// The folder of the programs that scripts/interop installs outside of npm.
export const tools = process.env.TOOLS
// The development CA of the server.
export const ca = process.env.CA

const children = new Set()
const folders = []
process.on('exit', (status) => {
  for (const child of children) {
    if (status !== 0) process.stderr.write(`${child.process.spawnfile}:\n${child.log}\n`)
    child.process.kill('SIGKILL')
  }
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

// Returns a new folder for files of this program.
export function temporaryFolder(name) {
  const folder = mkdtempSync(join(tmpdir(), `matchbook-${name}-`))
  folders.push(folder)
  return folder
}

// Returns a new folder with files that servers under other users can read.
export function configuration(name, files) {
  const folder = temporaryFolder(name)
  chmodSync(folder, 0o755)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, file), text)
  return folder
}

// Returns the path of an executable, by its path or by a name on PATH, or undefined.
export function executable(name) {
  const system = ['/usr/sbin', '/sbin']
  const paths = name.includes('/') ? [name] : [...process.env.PATH.split(delimiter), ...system].map((f) => join(f, name))
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {}
  })
}

// A running process and the lines that it has printed.
export class Child {
  lines = []

  constructor(command, options = {}) {
    this.process = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'pipe'], ...options })
    children.add(this)
    this.ended = once(this.process, 'exit').then(([status]) => {
      children.delete(this)
      return status
    })
    for (const stream of [this.process.stdout, this.process.stderr]) {
      if (stream) createInterface({ input: stream }).on('line', (line) => this.lines.push(line))
    }
  }

  get log() {
    return this.lines.slice(-60).join('\n')
  }

  // Waits until a line matches a pattern, and returns the match.
  async line(pattern) {
    return await until(`a line ${pattern}`, () => {
      const found = this.lines.map((line) => line.match(pattern)).find(Boolean)
      if (!found && this.process.exitCode !== null) throw new Error(`the process has ended:\n${this.log}`)
      return found
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.log}`)
    })
  }

  // Waits until the process accepts connections.
  async listens(port) {
    await until(`a listener on port ${port}`, async () => {
      if (this.process.exitCode !== null) throw new Error('the process has ended')
      return await accepts(port)
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.log}`)
    })
  }

  // Waits until a URL responds.
  async responds(url) {
    const isUp = () => fetch(url).then((response) => response.status < 500).catch(() => false)
    await until(`a response of ${url}`, async () => {
      if (this.process.exitCode !== null) throw new Error(`the process has ended:\n${this.log}`)
      return await isUp()
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.log}`)
    })
  }

  async stop() {
    this.process.kill('SIGTERM')
    await this.ended
  }
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

// Calls a function until its result is truthy, for at most a minute, and returns the result.
export async function until(what, call) {
  for (let i = 0; i < 300; i++) {
    const result = await call()
    if (result) return result
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Error(`waited in vain for ${what}`)
}
