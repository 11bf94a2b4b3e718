// A login through Chromium by openid-client, for programs that are given access tokens.
import { strict as assert } from 'node:assert'
import * as client from 'openid-client'
import { until } from './processes.mjs'
import { ask, issuer, refreshes } from './steps.mjs'

export class Login {
  // Registers a client with the options of the command line. `parameters` are those of the
  // authorization request, without the ones of PKCE.
  static async client(name, options, parameters) {
    const login = new Login()
    login.registered = await ask('client', { name, options: ['--confidential', '--first-party', ...options] })
    const { client_id: id, client_secret: secret } = login.registered
    login.config = await client.discovery(new URL(issuer), id, secret, undefined, { algorithm: 'oauth2' })
    login.parameters = parameters
    return login
  }

  // Logs the user in. Afterwards `tokens` has the tokens of a new session.
  async open() {
    const verifier = client.randomPKCECodeVerifier()
    const state = client.randomState()
    const { redirect_uri: redirectUri } = this.registered
    const url = client.buildAuthorizationUrl(this.config, {
      ...this.parameters,
      redirect_uri: redirectUri,
      state,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    })
    const { url: returned } = await ask('visit', { url: url.href, until: redirectUri })
    this.tokens = await client.authorizationCodeGrant(this.config, new URL(returned), {
      pkceCodeVerifier: verifier,
      expectedState: state,
      idTokenExpected: this.parameters.scope.split(' ').includes('openid'),
    })
  }

  // Refreshes, optionally for an access token with other scopes or another audience.
  async refresh(parameters) {
    this.tokens = await client.refreshTokenGrant(this.config, this.tokens.refresh_token, parameters)
  }

  // Waits as often as configured until a server rejects the access token, and refreshes: the server
  // must accept the next one.
  async refreshRepeatedly(isAccepted, refresh = () => this.refresh()) {
    for (let i = 0; i < refreshes; i++) {
      await until('the rejection of an expired token', async () => !(await isAccepted(this.tokens.access_token)))
      await refresh()
      assert.ok(await isAccepted(this.tokens.access_token), 'the next access token is accepted')
    }
  }

  // Ends the session.
  async revoke() {
    await client.tokenRevocation(this.config, this.tokens.refresh_token)
  }
}

// Returns a token with one character of its signature changed.
export function forge(token) {
  const [head, claims, signature] = token.split('.')
  const changed = (signature[9] === 'A' ? 'B' : 'A') + signature.slice(10)
  return [head, claims, signature.slice(0, 9) + changed].join('.')
}
