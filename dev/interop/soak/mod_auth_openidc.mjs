// mod_auth_openidc: Apache logs users in, and refreshes at a request before the expiry.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { announcePackage, startApache } from '../lib/debian.mjs'
import { ca, configuration } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { callApi, LoginNeeded, stay } from '../lib/stay.mjs'
import { ask, issuer } from '../lib/steps.mjs'

announcePackage('mod_auth_openidc (Apache)', 'libapache2-mod-auth-openidc')
const port = await freePort()
const site = `http://127.0.0.1:${port}`
const redirectUri = `${site}/callback`
const goodbye = `${site}/goodbye.html`
const client = await ask('client', {
  name: 'mod_auth_openidc',
  options: ['--confidential', '--first-party', '--post-logout-redirect-uri', goodbye],
  redirectUri,
})
// Apache runs as another user.
const trust = join(configuration('ca', { 'ca.pem': readFileSync(ca) }), 'ca.pem')
await startApache(
  ['auth_openidc'],
  `
OIDCProviderMetadataURL ${issuer}/.well-known/openid-configuration
OIDCCABundlePath ${trust}
OIDCClientID ${client.client_id}
OIDCClientSecret ${client.client_secret}
OIDCRedirectURI ${redirectUri}
OIDCCryptoPassphrase ${client.client_secret}
OIDCScope "openid profile"
OIDCPKCEMethod S256
OIDCRemoteUserClaim preferred_username
OIDCRefreshAccessTokenBeforeExpiry 5
OIDCInfoHook access_token remote_user
# Its tokens expire with the session of Apache, which lasts longer than the run.
OIDCSessionInactivityTimeout 3600
<Location />
  AuthType openid-connect
  Require valid-user
</Location>
<Location /goodbye.html>
  AuthType None
  Require all granted
</Location>
`,
  port,
)

// Opens the page of the report, at which Apache refreshes, and calls the API with what it has then.
async function use() {
  const page = await ask('send', { url: `${site}/` })
  if (page.location) throw new LoginNeeded(`Apache redirects to ${page.location}`)
  if (page.status !== 200) throw new Error(`Apache responds with ${page.status}`)
  const info = await ask('send', { url: `${redirectUri}?info=json` })
  if (info.status === 401) throw new LoginNeeded('Apache has no session')
  await callApi(JSON.parse(info.text).access_token)
}

await ask('visit', { url: `${site}/`, untilText: 'the report' })
await stay({
  use,
  logOut: () => ask('visit', { url: `${redirectUri}?logout=${encodeURIComponent(goodbye)}`, until: goodbye }),
})
