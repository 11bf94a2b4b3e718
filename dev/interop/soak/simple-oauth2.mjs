// simple-oauth2: a web app with a server, and plain OAuth.
import { createHash, randomBytes } from 'node:crypto'
import { AuthorizationCode } from 'simple-oauth2'
import { keepFresh, stay } from '../lib/stay.mjs'
import { announce, ask, issuer } from '../lib/steps.mjs'

announce('simple-oauth2')
const { client_id: id, client_secret: secret, redirect_uri: redirectUri } = await ask('client', {
  name: 'simple-oauth2',
  options: ['--confidential', '--first-party', '--scope', 'read'],
})
const app = new AuthorizationCode({
  client: { id, secret },
  auth: { tokenHost: issuer, tokenPath: '/oauth/token', authorizePath: '/oauth/authorize', revokePath: '/oauth/revoke' },
})
const verifier = randomBytes(32).toString('base64url')
const url = app.authorizeURL({
  redirect_uri: redirectUri,
  scope: 'read',
  state: randomBytes(16).toString('base64url'),
  code_challenge: createHash('sha256').update(verifier).digest('base64url'),
  code_challenge_method: 'S256',
})
const { url: returned } = await ask('visit', { url, until: redirectUri })
const code = new URL(returned).searchParams.get('code')
let token = await app.getToken({ code, redirect_uri: redirectUri, code_verifier: verifier })
const use = keepFresh({
  tokens: () => token.token,
  refresh: async () => (token = await token.refresh()),
  codeOf: (error) => error.data?.payload?.error,
})
await stay({ use, logOut: () => token.revokeAll() })
