// oidc-agent: an agent of the command line, which keeps tokens for other programs. The user logs
// in by the device grant, and again by a code. Its file must have the current refresh token.
//
// interop: long
import { strict as assert } from 'node:assert'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { output, versionOf } from '../lib/commands.mjs'
import { ca, Child, executable, temporaryFolder, until } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import {
  announceVersion, apiStatus, ask, assertEnded, expiry, issuer, refreshes, skip, step,
} from '../lib/steps.mjs'

if (!executable('oidc-agent')) skip('oidc-agent', 'the Debian package oidc-agent-cli is not installed')
announceVersion('oidc-agent', versionOf('oidc-agent', ['--version']))

const folder = temporaryFolder('oidc-agent')
const env = {
  PATH: process.env.PATH,
  HOME: folder,
  TMPDIR: folder,
  OIDC_CONFIG_DIR: join(folder, 'configuration'),
  OIDC_SOCK: join(folder, 'socket'),
  OIDC_ENCRYPTION_PW: 'the password of the file',
}
mkdirSync(env.OIDC_CONFIG_DIR)
const port = await freePort()
const redirectUri = `http://localhost:${port}`
const scope = 'openid profile offline_access'
const client = await ask('client', {
  name: 'oidc-agent',
  options: ['--public', '--device', '--first-party'],
  redirectUri,
})

async function startAgent() {
  rmSync(env.OIDC_SOCK, { force: true })
  const agent = new Child(
    ['oidc-agent', '--console', '--log-stderr', '--no-autoreauthenticate', '--pw-store', `--socket-path=${env.OIDC_SOCK}`],
    { env },
  )
  await until('the socket of the agent', () => existsSync(env.OIDC_SOCK))
  return agent
}

// Returns the current access token. The agent refreshes if it has expired.
const token = () => output(['oidc-token', 'matchbook'], { env })
// Returns an access token that the API accepts. On a slow machine one may expire on the way.
const acceptedToken = () =>
  until('an access token that the API accepts', async () => {
    const accessToken = await token()
    return (await apiStatus(accessToken)) === 200 && accessToken
  })
// Returns the refresh token in the file of the agent.
async function storedRefreshToken() {
  const account = await output(['oidc-gen', '--print=matchbook', '--pw-env'], { env })
  return JSON.parse(account).refresh_token
}

// Logs in by one of the flows of oidc-agent.
function login(flow) {
  return new Child(
    [
      'oidc-gen', 'matchbook', '--manual', `--flow=${flow}`, `--issuer=${issuer}`, `--client-id=${client.client_id}`,
      '--client-secret=', `--scope=${scope}`, `--redirect-uri=${redirectUri}`, `--cert-path=${ca}`,
      '--pw-env', '--prompt=none', '--no-url-call', '--confirm-default',
    ],
    { env },
  )
}

async function ends(child) {
  assert.equal(await child.ended, 0, child.log)
}

let agent

await step('login by the device grant, the code typed', async () => {
  agent = await startAgent()
  const child = login('device')
  const [url] = await child.line(/https:\S+/)
  const [, code] = await child.line(/code:?\s+([A-Z-]+)$/i)
  await ask('visit', { url, code, untilText: 'The device is logged in' })
  await ends(child)
  await acceptedToken()
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  for (let i = 0; i < refreshes; i++) {
    const before = await token()
    await expiry(before)
    assert.notEqual(await acceptedToken(), before)
  }
})
await step('restart of the agent, with the refresh token of its file', async () => {
  await agent.stop()
  agent = await startAgent()
  await output(['oidc-add', 'matchbook', '--pw-env'], { env })
  await acceptedToken()
})
await step('end of the account: revocation', async () => {
  const refreshToken = await storedRefreshToken()
  const accessToken = await token()
  await output(['oidc-gen', '--delete', 'matchbook', '--pw-env', '--confirm-yes'], { env })
  assert.equal(await apiStatus(accessToken), 401)
  await assertEnded(client, refreshToken)
  return 'its tokens are rejected'
})
await step('login in Chromium, code with PKCE, redirect to its own port', async () => {
  const child = login('code')
  const [url] = await child.line(/https:\S+/)
  await ask('visit', { url, until: redirectUri })
  await ends(child)
  await acceptedToken()
})
await step('logout in the browser', async () => {
  const last = await token()
  await ask('visit', { url: `${issuer}/oauth/logout`, logout: true, untilText: 'You are logged out' })
  assert.equal(await apiStatus(last), 401)
  await assert.rejects(output(['oidc-token', '--force-new', 'matchbook'], { env }), /invalid_grant/)
  return 'the tokens are rejected'
})
process.exit(0)
