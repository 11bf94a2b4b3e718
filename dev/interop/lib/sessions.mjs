// What the runs with faults check of the sessions of the server.
import { strict as assert } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

// Checks that the server gave each refresh token at most one successor, and that all successors
// form one chain. Returns its tokens.
export function chainOf(exchanges, first) {
  const successors = new Map()
  for (const { status, form, body } of exchanges) {
    if (status !== 200 || !form.refresh_token) continue
    const successor = JSON.parse(body).refresh_token
    const known = successors.get(form.refresh_token)
    assert.ok(!known || known === successor, 'a refresh token has two successors')
    successors.set(form.refresh_token, successor)
  }
  const chain = [first]
  while (successors.has(chain.at(-1))) chain.push(successors.get(chain.at(-1)))
  assert.equal(chain.length - 1, successors.size, 'every successor is in one chain')
  return chain
}

// Returns the sessions of OAuth clients in the database, as `id ended`.
export function sessionsInDatabase(server) {
  const sql = "SELECT id, ended_at IS NOT NULL FROM sessions WHERE client_id IS NOT NULL"
  const url = process.env.TEST_DATABASE_URL
  const python = 'import sqlite3, sys; [print(*row) for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])]'
  const { status, stdout, stderr } = url
    ? spawnSync('psql', [url, '--no-psqlrc', '--tuples-only', '--no-align', '--command', sql])
    : spawnSync('python3', ['-c', python, join(server.folder, 'data/matchbook.db'), sql])
  assert.equal(status, 0, String(stderr))
  return stdout.toString().trim().split('\n')
}
