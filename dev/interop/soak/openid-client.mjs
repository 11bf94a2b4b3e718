// openid-client: a web app with a server, which keeps its secret.
import { Login } from '../lib/login.mjs'
import { keepFresh, stay } from '../lib/stay.mjs'
import { announce } from '../lib/steps.mjs'

announce('openid-client')
const login = await Login.client('openid-client', [], { scope: 'openid profile offline_access' })
await login.open()
const use = keepFresh({
  tokens: () => login.tokens,
  refresh: () => login.refresh(),
  codeOf: (error) => error.error,
})
await stay({ use, logOut: () => login.revoke() })
