// Programs from Debian's packages, which scripts/interop installs.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Child, configuration } from './processes.mjs'
import { announceVersion, skip } from './steps.mjs'

// Announces a program with the version of its Debian package, or ends it as skipped.
export function announcePackage(program, debianPackage) {
  const query = ['--show', '--showformat=${db:Status-Status} ${Version}', debianPackage]
  const { stdout } = spawnSync('dpkg-query', query, { encoding: 'utf8' })
  const version = stdout?.match(/^installed (?:\d+:)?([\d.]+)/)
  if (!version) skip(program, `the Debian package ${debianPackage} is not installed`)
  announceVersion(program, version[1])
}

// Starts Apache with modules and directives.
export async function startApache(modules, directives, port) {
  const load = (name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`
  // Apache changes to another user, if it may.
  const user = process.getuid() === 0 ? 'User www-data\nGroup www-data' : ''
  const all = ['mpm_event', 'authn_core', 'authz_core', 'authz_user', 'headers', 'dir', ...modules]
  const folder = configuration('apache', { 'index.html': 'the report\n', 'goodbye.html': 'Goodbye.\n' })
  const text = `
${all.map(load).join('\n')}
${user}
PidFile ${folder}/pid
DefaultRuntimeDir ${folder}
DocumentRoot ${folder}
ServerName 127.0.0.1
Listen 127.0.0.1:${port}
DirectoryIndex index.html
ErrorLog "|/bin/cat"
${directives}
`
  writeFileSync(join(folder, 'apache.conf'), text)
  const child = new Child(['/usr/sbin/apache2', '-DFOREGROUND', '-f', join(folder, 'apache.conf')])
  await child.listens(port)
  return child
}
