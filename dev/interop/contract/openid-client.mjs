// A process that shares a token file with others, without a lock, and refreshes by openid-client.
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import * as client from 'openid-client'

const { ISSUER, CLIENT_ID, CLIENT_SECRET, TOKEN_FILE } = process.env
const margin = Number(process.env.MARGIN)
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))
const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

process.stdin.resume().on('end', () => process.exit(0))
const config = await client.discovery(new URL(ISSUER), CLIENT_ID, CLIENT_SECRET, undefined, {
  algorithm: 'oauth2',
})
report({ ready: true })
for (;;) {
  const stored = JSON.parse(readFileSync(TOKEN_FILE))
  if (stored.expires_at - Date.now() / 1000 > margin) {
    await pause(0.2)
    continue
  }
  try {
    const tokens = await client.refreshTokenGrant(config, stored.refresh_token)
    const { access_token, refresh_token } = tokens
    const file = { access_token, refresh_token, expires_at: Date.now() / 1000 + tokens.expiresIn() }
    writeFileSync(`${TOKEN_FILE}.${process.pid}`, JSON.stringify(file))
    renameSync(`${TOKEN_FILE}.${process.pid}`, TOKEN_FILE)
    report({ refreshed: true })
  } catch (error) {
    if (error.error === 'invalid_grant') {
      report({ login: error.error_description })
      break
    }
    report({ failed: error.error ?? error.cause?.message ?? error.message })
    await pause(1)
  }
}
