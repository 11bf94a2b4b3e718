// oidc-agent: an agent of the command line, which keeps tokens for other programs.
import { strict as assert } from 'node:assert'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { output, versionOf } from '../lib/commands.mjs'
import { ca, Child, executable, temporaryFolder, until } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { callApi, LoginNeeded, stay } from '../lib/stay.mjs'
import { announceVersion, ask, issuer, skip } from '../lib/steps.mjs'

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
const redirectUri = `http://localhost:${await freePort()}`
const { client_id: clientId } = await ask('client', {
  name: 'oidc-agent',
  options: ['--public', '--first-party'],
  redirectUri,
})
new Child(
  ['oidc-agent', '--console', '--log-stderr', '--no-autoreauthenticate', '--pw-store', `--socket-path=${env.OIDC_SOCK}`],
  { env },
)
await until('the socket of the agent', () => existsSync(env.OIDC_SOCK))
const login = new Child(
  [
    'oidc-gen', 'matchbook', '--manual', '--flow=code', `--issuer=${issuer}`, `--client-id=${clientId}`,
    '--client-secret=', '--scope=openid profile offline_access', `--redirect-uri=${redirectUri}`, `--cert-path=${ca}`,
    '--pw-env', '--prompt=none', '--no-url-call', '--confirm-default',
  ],
  { env },
)
const [url] = await login.line(/https:\S+/)
await ask('visit', { url, until: redirectUri })
assert.equal(await login.ended, 0, login.log)

async function use() {
  const token = await output(['oidc-token', '--time=5', 'matchbook'], { env }).catch((error) => {
    if (error.message.includes('invalid_grant')) throw new LoginNeeded(error.message)
    throw error
  })
  await callApi(token.trim())
}

await stay({ use, logOut: () => output(['oidc-gen', '--delete', 'matchbook', '--pw-env', '--confirm-yes'], { env }) })
