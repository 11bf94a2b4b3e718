// The page of soak/oidc-client-ts.mjs, where `oidc` is oidc-client-ts. It renews by itself before the
// expiry. It gives up after an error, so the page renews at its next use.
import { callApi, LoginNeeded, stay } from '/stay.js'

const { issuer, clientId } = await (await fetch('/config.json')).json()
const manager = new oidc.UserManager({
  authority: issuer,
  client_id: clientId,
  redirect_uri: `${location.origin}/callback`,
  scope: 'openid profile offline_access',
  automaticSilentRenew: true,
  accessTokenExpiringNotificationTimeInSeconds: 5,
})

async function use() {
  let user = await manager.getUser()
  if (!user) throw new LoginNeeded('the library has no user')
  if (user.expired) {
    user = await manager.signinSilent().catch((error) => {
      if (error.error === 'invalid_grant') throw new LoginNeeded('invalid_grant')
      throw error
    })
  }
  await callApi(issuer, user.access_token)
}

if (location.pathname === '/callback') {
  await manager.signinRedirectCallback()
  await stay({ use, logOut: () => manager.revokeTokens(['refresh_token']) })
} else {
  await manager.signinRedirect()
}
