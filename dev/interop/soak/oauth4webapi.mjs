// oauth4webapi: a public client, which verifies each id_token.
import * as oauth from 'oauth4webapi'
import { keepFresh, stay } from '../lib/stay.mjs'
import { announce, ask, issuer } from '../lib/steps.mjs'

announce('oauth4webapi')
const { client_id, redirect_uri: redirectUri } = await ask('client', {
  name: 'oauth4webapi',
  options: ['--public', '--first-party'],
})
const client = { client_id }
const noSecret = oauth.None()
const discovery = await oauth.discoveryRequest(new URL(issuer))
const server = await oauth.processDiscoveryResponse(new URL(issuer), discovery)
const verifier = oauth.generateRandomCodeVerifier()
const state = oauth.generateRandomState()
const nonce = oauth.generateRandomNonce()
const url = new URL(server.authorization_endpoint)
url.search = new URLSearchParams({
  client_id,
  redirect_uri: redirectUri,
  response_type: 'code',
  scope: 'openid profile',
  state,
  nonce,
  code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
})
const visit = await ask('visit', { url: url.href, until: redirectUri })
const parameters = oauth.validateAuthResponse(server, client, new URL(visit.url), state)
const exchange = await oauth.authorizationCodeGrantRequest(server, client, noSecret, parameters, redirectUri, verifier)
let tokens = await oauth.processAuthorizationCodeResponse(server, client, exchange, { expectedNonce: nonce })

async function refresh() {
  const response = await oauth.refreshTokenGrantRequest(server, client, noSecret, tokens.refresh_token)
  tokens = await oauth.processRefreshTokenResponse(server, client, response)
}

async function logOut() {
  const response = await oauth.revocationRequest(server, client, noSecret, tokens.refresh_token)
  await oauth.processRevocationResponse(response)
}

await stay({ use: keepFresh({ tokens: () => tokens, refresh, codeOf: (error) => error.error }), logOut })
