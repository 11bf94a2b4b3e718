// Dovecot: an IMAP server that lets mail programs in by OAUTHBEARER, and introspects their tokens.
// interop: long
import { strict as assert } from 'node:assert'
import { chownSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { announcePackage } from '../lib/debian.mjs'
import { forge, Login } from '../lib/login.mjs'
import { ca, Child, configuration, temporaryFolder } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { ask, issuer, refreshes, step } from '../lib/steps.mjs'

announcePackage('Dovecot', 'dovecot-imapd')
const port = await freePort()
const mailServer = 'https://mail.example.com/'
const server = await ask('client', {
  name: 'dovecot',
  options: ['--confidential', '--machine', '--audience', mailServer],
  redirectUri: null,
})

// Dovecot started by root changes to its own users, and mail belongs to another user.
const isRoot = process.getuid() === 0
const { uid, gid, username } = isRoot ? { uid: 65534, gid: 65534 } : userInfo()
const mail = temporaryFolder('mail')
chownSync(mail, uid, gid)
const users = isRoot ? '' : `default_internal_user = ${username}\ndefault_login_user = ${username}`
const chroots = ['anvil', 'stats'].map((name) => `service ${name} {\n  chroot =\n}`).join('\n')
const introspection = new URL(`${issuer}/oauth/introspect`)
introspection.username = server.client_id
introspection.password = server.client_secret
const folder = configuration('dovecot', { 'ca.pem': readFileSync(ca) })
writeFileSync(
  join(folder, 'oauth2.conf'),
  `
introspection_mode = post
introspection_url = ${introspection}
tls_ca_cert_file = ${folder}/ca.pem
username_attribute = sub
active_attribute = active
active_value = true
scope = mail
`,
)
const text = `
protocols = imap
listen = 127.0.0.1
base_dir = ${folder}/run
state_dir = ${folder}
log_path = /dev/stderr
ssl = no
${users}
${chroots}
first_valid_uid = 1
mail_location = maildir:${mail}/%u
auth_mechanisms = oauthbearer xoauth2
auth_verbose = yes
auth_failure_delay = 0
passdb {
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = ${folder}/oauth2.conf
}
userdb {
  driver = static
  args = uid=${uid} gid=${gid} home=${mail}/%u
}
# Without delays after failures.
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = ${port}
  }
  inet_listener imaps {
    port = 0
  }
}
`
const main = configuration('dovecot-main', { 'dovecot.conf': text })
const child = new Child(['dovecot', '-F', '-c', join(main, 'dovecot.conf')])
await child.listens(port)

// Logs in as a mail program does, and opens the inbox. Returns the final response.
async function openInbox({ token, user, mechanism = 'OAUTHBEARER' }) {
  const socket = connect(port, '127.0.0.1')
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
  const send = (line) => socket.write(`${line}\r\n`)
  const bearer = `auth=Bearer ${token}\x01\x01`
  const first = mechanism === 'XOAUTH2' ? `user=${user}\x01${bearer}` : `n,a=${user},\x01${bearer}`
  await lines.next()
  send(`a AUTHENTICATE ${mechanism} ${Buffer.from(first).toString('base64')}`)
  let last = ''
  for await (const line of lines) {
    last = line
    // The error as JSON, which the mail program confirms (RFC 7628 §3.2.3).
    if (line.startsWith('+')) send('AQ==')
    if (line.startsWith('a OK')) send('b SELECT INBOX')
    if (/^(a NO|b )/.test(line)) break
  }
  socket.destroy()
  return last
}
const subject = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url')).sub
const isAccepted = async (token) => {
  const response = await openInbox({ token, user: subject(token) })
  assert.match(response, /^(b OK|a NO \[AUTHENTICATIONFAILED])/, response)
  return response.startsWith('b OK')
}

const login = await Login.client('mail-program', ['--scope', 'mail other', '--audience', mailServer], {
  scope: 'openid mail other',
  resource: mailServer,
})
await step('OAUTHBEARER and XOAUTH2 after a login in Chromium, by introspection', async () => {
  await login.open()
  const token = login.tokens.access_token
  for (const mechanism of ['OAUTHBEARER', 'XOAUTH2']) {
    assert.match(await openInbox({ token, user: subject(token), mechanism }), /^b OK/)
  }
  return 'inbox opened'
})
await step('another user, changed signature, ID token, another audience, another scope', async () => {
  const token = login.tokens.access_token
  const rejected = /^a NO \[AUTHENTICATIONFAILED]/
  assert.match(await openInbox({ token, user: 'bob' }), rejected)
  assert.match(await openInbox({ token: forge(token), user: subject(token) }), rejected)
  assert.equal(await isAccepted(login.tokens.id_token), false)
  await login.refresh({ scope: 'other' })
  const { access_token: other } = login.tokens
  assert.match(await openInbox({ token: other, user: subject(other) }), rejected)
  const elsewhere = await Login.client('dovecot-other', ['--scope', 'mail'], { scope: 'mail' })
  await elsewhere.open()
  assert.equal(await isAccepted(elsewhere.tokens.access_token), false)
  return '`AUTHENTICATIONFAILED`'
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  await login.refresh()
  await login.refreshRepeatedly(isAccepted)
})
await step('logout', async () => {
  assert.ok(await isAccepted(login.tokens.access_token))
  await login.revoke()
  assert.equal(await isAccepted(login.tokens.access_token), false)
  return 'rejected at once'
})
process.exit(0)
