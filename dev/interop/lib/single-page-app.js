// The page of programs/single-page-app.mjs. It runs in Chromium.
// docs: single-page-app-import
import * as oauth from 'oauth4webapi'
// docs: end

const { issuer, clientId, refreshes } = await (await fetch('/config.json')).json()

// docs: single-page-app
const client = { client_id: clientId }
const redirectUri = `${location.origin}/callback`
const url = new URL(issuer)
const server = await oauth.processDiscoveryResponse(
  url,
  await oauth.discoveryRequest(url, { algorithm: 'oauth2' }),
)

async function logIn() {
  const verifier = oauth.generateRandomCodeVerifier()
  const state = oauth.generateRandomState()
  sessionStorage.setItem('login', JSON.stringify({ verifier, state }))
  const url = new URL(server.authorization_endpoint)
  url.search = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'read',
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  })
  location.assign(url)
}

// At the redirect URI.
async function finishLogin() {
  const { verifier, state } = JSON.parse(sessionStorage.getItem('login'))
  const parameters = oauth.validateAuthResponse(server, client, new URL(location.href), state)
  const response = await oauth.authorizationCodeGrantRequest(
    server, client, oauth.None(), parameters, redirectUri, verifier,
  )
  return oauth.processAuthorizationCodeResponse(server, client, response)
}

async function refresh(refreshToken) {
  const response = await oauth.refreshTokenGrantRequest(server, client, oauth.None(), refreshToken)
  return oauth.processRefreshTokenResponse(server, client, response)
}

async function logOut(refreshToken) {
  const response = await oauth.revocationRequest(server, client, oauth.None(), refreshToken)
  await oauth.processRevocationResponse(response)
}
// docs: end

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))
const errorOf = (call) => call.then(() => 'none', (error) => error.error ?? error.message)

async function run() {
  const results = {}
  let tokens = await finishLogin()
  for (let i = 0; i < refreshes; i++) {
    await pause(tokens.expires_in)
    tokens = await refresh(tokens.refresh_token)
  }
  // Two tabs do not know of each other.
  const tabs = await Promise.all([refresh(tokens.refresh_token), refresh(tokens.refresh_token)])
  results.sameSuccessor = tabs[0].refresh_token === tabs[1].refresh_token
  await logOut(tabs[0].refresh_token)
  results.afterLogout = await errorOf(refresh(tabs[0].refresh_token))
  return results
}

if (location.pathname === '/callback') {
  const results = await run().catch((error) => ({ error: String(error.cause ?? error) }))
  document.body.textContent = `results ${JSON.stringify(results)}`
} else {
  await logIn()
}
