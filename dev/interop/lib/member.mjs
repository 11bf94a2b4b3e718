// A program of soak.mjs: its reports, its exchanges with the server, and its failures.
import { basename } from 'node:path'
import { commandOf, runProgram } from './program.mjs'
import { chainOf } from './sessions.mjs'

const time = (at) => new Date(at).toISOString().slice(11, 19)
const pause = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000))
// Between two uses of a login.
const TURN = 3

export class Member {
  version = ''
  clients = new Set()
  exchanges = []
  faults = 0
  used = 0
  failed = new Map()
  longestOutage = 0
  // What went wrong, as lines of text.
  failures = []

  constructor(path) {
    this.path = path
    this.name = basename(path).replace(/\.\w+$/, '')
    this.ready = new Promise((resolve) => (this.becomeReady = resolve))
  }

  // Runs the program to its end. `turn` returns what it does next.
  async run({ turn, ...driver }) {
    const { command, missing } = commandOf(this.path)
    if (missing) this.skipped = missing
    else await this.runCommand(command, { turn, ...driver })
    this.becomeReady()
  }

  async runCommand(command, { turn, ...driver }) {
    const services = ({ client }) => ({
      client: async (question) => {
        const registered = await client(question)
        this.clients.add(registered.client_id)
        return registered
      },
      turn: async () => {
        this.isReady = true
        this.becomeReady()
        await pause(TURN)
        this.isLeaving = turn() === 'logout'
        return { turn: turn() }
      },
    })
    const { status, errors } = await runProgram(command, {
      ...driver,
      services,
      env: { REFRESHES: '0' },
      onLine: (line) => this.read(line),
    })
    if (this.skipped) return
    if (status !== 0) this.fail(`it has ended with ${status}: ${errors.slice(-30).join('\n')}`)
    else if (!this.hasLoggedOut) this.fail('it has ended without a logout')
  }

  fail(text, at = Date.now()) {
    this.failures.push(`${time(at)} ${this.name}: ${text}`)
  }

  read(line) {
    if (line.program) Object.assign(this, { name: line.program, version: line.version })
    if (line.skipped) this.skipped = line.skipped
    if (line.spared) this.spared = line.spared
    if (line.failed) this.failed.set(line.failed, (this.failed.get(line.failed) ?? 0) + 1)
    if (line.loggedOut) this.hasLoggedOut = true
    if (line.used) {
      this.used += 1
      this.checkUse()
      this.lastUse = Date.now()
    }
    if ('login' in line) {
      const last = this.exchanges.slice(-3).map(textOf).join('\n  ')
      this.fail(`it needs a new login: ${line.login}. Its last exchanges:\n  ${last}`)
    }
  }

  // Gets each exchange of its clients with the server.
  observe(exchange) {
    if (exchange.path === '/oauth/token') this.exchanges.push(exchange)
    const { path, status, at } = exchange
    if (!this.isReady || this.isLeaving) return
    if (path === '/oauth/authorize') this.fail('it sends the user to the login page', at)
    if (status >= 400 && status !== 503) this.fail(`the server rejects ${textOf(exchange)}`, at)
  }

  // How often it got new tokens by a refresh.
  get refreshes() {
    return new Set(this.successful().map(({ refresh_token: token }) => token)).size
  }

  successful() {
    return this.exchanges
      .filter(({ status, form }) => status === 200 && form.grant_type === 'refresh_token')
      .map(({ body }) => JSON.parse(body))
  }

  // Checks that it can be used: an outage is not longer than a minute.
  checkUse() {
    const outage = Date.now() - (this.lastUse ?? Date.now())
    this.longestOutage = Math.max(this.longestOutage, outage - TURN * 1000)
    if (outage > 60_000) this.fail(`it cannot be used since ${time(this.lastUse)}`)
  }

  // Checks what must be true at the end.
  check(minimum) {
    if (this.refreshes < minimum) this.fail(`${this.refreshes} refreshes instead of ${minimum}`)
    const login = this.exchanges.find(({ status, form }) => status === 200 && form.grant_type !== 'refresh_token')
    if (!login) return this.fail('it has no tokens')
    try {
      chainOf(this.exchanges, JSON.parse(login.body).refresh_token)
    } catch (error) {
      this.fail(error.message)
    }
  }
}

// An exchange without its secrets.
function textOf({ at, path, fate, form, status, body, error }) {
  const outcome = status === 200 ? '200' : `${status} ${body ?? ''} ${error ?? ''}`.trim()
  return `${time(at)} ${path} ${form.grant_type ?? ''} (fault: ${JSON.stringify(fate)}): ${outcome}`
}
