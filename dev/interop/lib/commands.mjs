// Commands that a program runs to their end, while it serves their requests.
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { configuration } from './processes.mjs'

// Returns the version that a command prints: its first number with a dot.
export function versionOf(command, args) {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  return `${stdout}${stderr}`.match(/\d+\.\d[\w.]*/)[0]
}

// Runs a command, with a text on standard input. Returns its status and its output.
export async function run(command, args, { env, input = '' } = {}) {
  const child = spawn(command, args, { env })
  child.stdin.on('error', () => {}).end(input)
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr']) child[name].on('data', (data) => (output[name] += data))
  const status = await new Promise((resolve, reject) => child.once('close', resolve).once('error', reject))
  return { status, ...output }
}

// Runs a command, and returns its output. Throws if its status is not zero.
export async function output([command, ...args], options) {
  const { status, stdout, stderr } = await run(command, args, options)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}${stdout}`)
  return stdout.trim()
}

// Creates a certificate for this host. Returns the paths of its files.
export function createCertificate() {
  const folder = configuration('tls', {})
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => join(folder, name))
  const options =
    `-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost ` +
    `-addext subjectAltName=DNS:localhost,DNS:*.example.com,IP:127.0.0.1 -keyout ${key} -out ${cert}`
  const { status, stderr } = spawnSync('openssl', ['req', '-x509', ...options.split(' ')], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`openssl: ${stderr}`)
  return { cert, key }
}
