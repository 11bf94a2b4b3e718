// The page of soak/oauth4webapi_page.mjs. It refreshes after the expiry.
import * as oauth from 'oauth4webapi'
import { callApi, LoginNeeded, stay } from '/stay.js'

const { issuer, clientId } = await (await fetch('/config.json')).json()
const client = { client_id: clientId }
const redirectUri = `${location.origin}/callback`
const discovery = await oauth.discoveryRequest(new URL(issuer))
const server = await oauth.processDiscoveryResponse(new URL(issuer), discovery)

async function logIn() {
  const verifier = oauth.generateRandomCodeVerifier()
  const state = oauth.generateRandomState()
  sessionStorage.setItem('login', JSON.stringify({ verifier, state }))
  const url = new URL(server.authorization_endpoint)
  url.search = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'openid profile',
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  })
  location.assign(url)
}

async function finishLogin() {
  const { verifier, state } = JSON.parse(sessionStorage.getItem('login'))
  const parameters = oauth.validateAuthResponse(server, client, new URL(location.href), state)
  const response = await oauth.authorizationCodeGrantRequest(
    server, client, oauth.None(), parameters, redirectUri, verifier,
  )
  return oauth.processAuthorizationCodeResponse(server, client, response)
}

async function run() {
  let tokens = await finishLogin()
  let expiresAt = Date.now() + tokens.expires_in * 1000
  async function refresh() {
    const response = await oauth.refreshTokenGrantRequest(server, client, oauth.None(), tokens.refresh_token)
    tokens = await oauth.processRefreshTokenResponse(server, client, response)
    expiresAt = Date.now() + tokens.expires_in * 1000
  }
  async function use() {
    if (Date.now() > expiresAt - 1000) {
      await refresh().catch((error) => {
        if (error.error === 'invalid_grant') throw new LoginNeeded('invalid_grant')
        throw error
      })
    }
    await callApi(issuer, tokens.access_token)
  }
  async function logOut() {
    const response = await oauth.revocationRequest(server, client, oauth.None(), tokens.refresh_token)
    await oauth.processRevocationResponse(response)
  }
  await stay({ use, logOut })
}

await (location.pathname === '/callback' ? run() : logIn())
