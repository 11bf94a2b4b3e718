// The page of programs/oidc-client-ts.mjs. It runs in Chromium, where `oidc` is oidc-client-ts.
const { issuer, clientId, refreshes, scope } = await (await fetch('/config.json')).json()

const manager = new oidc.UserManager({
  authority: issuer,
  client_id: clientId,
  redirect_uri: `${location.origin}/callback`,
  post_logout_redirect_uri: `${location.origin}/goodbye`,
  scope,
  loadUserInfo: true,
  // Renews one second before the expiry, by the refresh token. Loads the claims with each new access
  // token.
  automaticSilentRenew: true,
  accessTokenExpiringNotificationTimeInSeconds: 1,
})

const metadata = await manager.metadataService.getMetadata()
const errorOf = (call) => call.then(() => 'none', (error) => error.error ?? error.message)

// The page stores what it has found before it leaves.
const store = (values) => {
  const results = { ...JSON.parse(sessionStorage.getItem('results')), ...values }
  sessionStorage.setItem('results', JSON.stringify(results))
  return results
}

async function userInfoStatus(accessToken) {
  const headers = { authorization: `Bearer ${accessToken}` }
  return (await fetch(metadata.userinfo_endpoint, { headers })).status
}

// Refreshes with the tokens that the page had before.
async function refresh(user) {
  await manager.storeUser(new oidc.User(user))
  const error = await errorOf(manager.signinSilent())
  await manager.removeUser()
  return error
}

// Waits for the next automatic renewal.
function renewal() {
  return new Promise((resolve, reject) => {
    const subscriptions = [
      manager.events.addUserLoaded((user) => settle(resolve, user)),
      manager.events.addSilentRenewError((error) => settle(reject, error)),
    ]
    const settle = (end, value) => {
      for (const unsubscribe of subscriptions) unsubscribe()
      end(value)
    }
  })
}

async function afterFirstLogin(user) {
  const first = user
  for (let i = 0; i < refreshes; i++) {
    const before = user
    user = await renewal()
    if (user.refresh_token === before.refresh_token) throw new Error('the refresh token has not changed')
    if (user.id_token === before.id_token) throw new Error('the id_token has not changed')
  }
  manager.stopSilentRenew()
  store({ profile: user.profile, isSameSession: user.profile.sid === first.profile.sid })
  await manager.revokeTokens(['refresh_token'])
  store({
    afterRevocation: await userInfoStatus(user.access_token),
    refreshAfterRevocation: await refresh(user),
  })
  await manager.signinRedirect({ state: 'second login' })
}

async function afterSecondLogin(user) {
  manager.stopSilentRenew()
  store({ user })
  await manager.signoutRedirect({ state: 'logout' })
}

async function afterLogout() {
  const { userState } = await manager.signoutRedirectCallback()
  const { user, ...results } = store({ state: userState })
  return {
    ...results,
    afterLogout: await userInfoStatus(user.access_token),
    userAfterLogout: await manager.getUser(),
    refreshAfterLogout: await refresh(user),
  }
}

async function run() {
  if (location.pathname === '/goodbye') return afterLogout()
  if (location.pathname !== '/callback') return manager.signinRedirect({ state: 'first login' })
  const user = await manager.signinRedirectCallback()
  return user.state === 'first login' ? afterFirstLogin(user) : afterSecondLogin(user)
}

const results = await run().catch((error) => ({ error: `${error.message} ${error.error ?? ''}` }))
if (results) document.body.textContent = `results ${JSON.stringify(results)}`
