// The `oauth2` crate: a process that keeps a token file fresh, the same as in contract.mjs. The login
// is by openid-client.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Login } from '../lib/login.mjs'
import { Child, temporaryFolder, tools } from '../lib/processes.mjs'
import { root } from '../lib/server.mjs'
import { callApi, LoginNeeded, stay } from '../lib/stay.mjs'
import { announceVersion, issuer, skip } from '../lib/steps.mjs'

const name = 'oauth2 (Rust crate)'
const binary = join(tools, 'rust/debug/matchbook-interop-oauth2')
if (!existsSync(binary)) skip(name, 'it is not built')
const lock = readFileSync(join(root, 'dev/interop/programs/oauth2-crate/Cargo.lock'), 'utf8')
announceVersion(name, lock.match(/name = "oauth2"\nversion = "(.*)"/)[1])
const login = await Login.client('oauth2-crate', [], { scope: 'openid profile' })
await login.open()
const file = join(temporaryFolder('oauth2'), 'tokens.json')
writeFileSync(file, JSON.stringify({ ...login.tokens, expires_at: Date.now() / 1000 + login.tokens.expires_in }))
const child = new Child([binary, 'share'], {
  env: {
    PATH: process.env.PATH,
    ISSUER: issuer,
    CLIENT_ID: login.registered.client_id,
    CLIENT_SECRET: login.registered.client_secret,
    TOKEN_FILE: file,
    MARGIN: '5',
    SSL_CERT_FILE: process.env.SSL_CERT_FILE,
  },
})

async function use() {
  const rejection = child.lines.find((line) => line.includes('"login"'))
  if (rejection) throw new LoginNeeded(rejection)
  await callApi(JSON.parse(readFileSync(file)).access_token)
}

async function logOut() {
  child.process.stdin.end()
  await child.ended
  login.tokens = JSON.parse(readFileSync(file))
  await login.revoke()
}

await stay({ use, logOut })
