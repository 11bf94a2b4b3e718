// kubectl, an old and a new version: refreshes ID tokens and sends them to a cluster (auth provider
// `oidc`).
// interop: long
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { run, versionOf } from '../lib/commands.mjs'
import { startCluster, writeConfig } from '../lib/kubectl.mjs'
import { Login } from '../lib/login.mjs'
import { executable, tools } from '../lib/processes.mjs'
import { announceVersion, ask, refreshes, skip, step } from '../lib/steps.mjs'

const kubectl = ['1.20', '1.37'].map((version) => executable(join(tools, 'kubectl', `kubectl-${version}`)))
if (!kubectl.every(Boolean)) skip('kubectl', 'its packages cannot be installed')

const login = await Login.client('kubectl', ['--grace-period', '60s'], { scope: 'openid profile groups' })
const name = 'kim'
await ask('user', { name, groups: ['operators'] })

const cluster = await startCluster(login.registered.client_id)
const { received } = cluster
let kubeconfigs

for (const binary of kubectl) {
  announceVersion('kubectl', versionOf(binary, ['version', '--client']))
  const get = (kubeconfig) => run(binary, ['--kubeconfig', kubeconfig, 'get', '--raw', '/version'])

  await step('ID token of a login in Chromium', async () => {
    received.length = 0
    await login.open()
    kubeconfigs = writeConfig(cluster, login, ['config', 'copy'])
    // kubectl refreshes 10 s before the expiry, so here at once.
    for (const { status, stdout, stderr } of await Promise.all(kubeconfigs.map(get))) {
      assert.equal(status, 0, stderr)
      assert.equal(JSON.parse(stdout).user, name)
    }
    const [{ claims }] = received
    assert.deepEqual(claims.groups, ['operators'])
    return 'accepted, with `preferred_username` and `groups`'
  })
  await step(`expiry, and two copies that refresh at the same time × ${refreshes}`, async () => {
    for (let i = 0; i < refreshes; i++) {
      const { exp } = received.at(-1).claims
      await new Promise((resolve) => setTimeout(resolve, exp * 1000 - Date.now() + 100))
      received.length = 0
      for (const { status, stderr } of await Promise.all(kubeconfigs.map(get))) assert.equal(status, 0, stderr)
      assert.equal(received.length, 2)
      for (const { claims } of received) assert.ok(claims.exp > exp, 'a new id_token')
    }
  })
  await step('logout', async () => {
    const [, refreshToken] = readFileSync(kubeconfigs[0], 'utf8').match(/refresh-token: (\S+)/)
    login.tokens = { refresh_token: refreshToken }
    await login.revoke()
    const { exp } = received.at(-1).claims
    await new Promise((resolve) => setTimeout(resolve, exp * 1000 - Date.now() + 100))
    const { status, stderr } = await get(kubeconfigs[0])
    assert.notEqual(status, 0)
    assert.match(stderr, /invalid_grant/)
    return '`invalid_grant` after the expiry'
  })
}
process.exit(0)
