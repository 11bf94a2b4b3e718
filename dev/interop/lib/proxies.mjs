// Reverse proxies that protect an application by /forward-auth, with the examples of the
// documentation. Each also passes requests for auth.example.com to Matchbook.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createCertificate, versionOf } from './commands.mjs'
import { Child, configuration, executable, tools } from './processes.mjs'
import { root } from './server.mjs'

const example = (name) => readFileSync(join(root, 'docs/examples/forward-auth', name), 'utf8')

// Replaces each text of an example, which must occur.
function adapt(text, replacements) {
  for (const [from, to] of Object.entries(replacements)) {
    if (!text.includes(from)) throw new Error(`the example has no ${from}`)
    text = text.replaceAll(from, to)
  }
  return text
}

function nginx({ proxy, matchbook, app }) {
  const { cert, key } = createCertificate()
  const site = adapt(example('nginx.conf'), {
    'listen 443 ssl': `listen 127.0.0.1:${proxy} ssl`,
    '/etc/ssl/app.example.com/fullchain.pem': cert,
    '/etc/ssl/app.example.com/privkey.pem': key,
    '127.0.0.1:5001': `127.0.0.1:${matchbook}`,
    '127.0.0.1:8080': `127.0.0.1:${app}`,
  })
  const folder = configuration('nginx', { 'site.conf': site })
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `  ${name}_temp_path ${folder}/${name};`,
  )
  const main = configuration('nginx-main', {
    'nginx.conf': `
daemon off;
pid ${folder}/pid;
error_log stderr;
${process.getuid() === 0 ? 'user root;' : ''}
events {}
http {
  access_log off;
${temporary.join('\n')}
  server {
    listen 127.0.0.1:${proxy} ssl;
    server_name auth.example.com;
    ssl_certificate ${cert};
    ssl_certificate_key ${key};
    location / {
      proxy_pass http://127.0.0.1:${matchbook};
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
  include ${folder}/site.conf;
}
`,
  })
  return ['nginx', '-c', join(main, 'nginx.conf'), '-e', 'stderr']
}

function caddy({ proxy, matchbook, app }) {
  const { cert, key } = createCertificate()
  const site = adapt(example('Caddyfile'), {
    'app.example.com {': `https://app.example.com:${proxy} {\n\ttls ${cert} ${key}`,
    '127.0.0.1:5001': `127.0.0.1:${matchbook}`,
    '127.0.0.1:8080': `127.0.0.1:${app}`,
  })
  const text = `{
	admin off
	auto_https off
}
https://auth.example.com:${proxy} {
	tls ${cert} ${key}
	reverse_proxy 127.0.0.1:${matchbook}
}
${site}`
  const folder = configuration('caddy', { Caddyfile: text })
  return [join(tools, 'venv/proxies/bin/caddy'), 'run', '--adapter', 'caddyfile', '--config', join(folder, 'Caddyfile')]
}

function traefik({ proxy, matchbook, app }) {
  const { cert, key } = createCertificate()
  const site = adapt(example('traefik.yml'), {
    'http://127.0.0.1:5001': `http://127.0.0.1:${matchbook}`,
    'http://127.0.0.1:8080': `http://127.0.0.1:${app}`,
  })
  const folder = configuration('traefik', {
    'app.yml': site,
    'auth.yml': `
tls:
  stores:
    default:
      defaultCertificate:
        certFile: ${cert}
        keyFile: ${key}
http:
  routers:
    auth:
      rule: Host(\`auth.example.com\`)
      entryPoints: [websecure]
      tls: {}
      service: auth
  services:
    auth:
      loadBalancer:
        servers:
          - url: http://127.0.0.1:${matchbook}
`,
  })
  return [
    join(tools, 'venv/proxies/bin/traefik'),
    `--entryPoints.websecure.address=127.0.0.1:${proxy}`,
    '--entryPoints.websecure.http.aliasHeadersStrategy=delete',
    `--providers.file.directory=${folder}`,
    '--global.checkNewVersion=false',
    '--global.sendAnonymousUsage=false',
    '--log.level=INFO',
  ]
}

// The proxies: their names, how to ask for their version, and how to write their configuration.
const proxies = [
  { name: 'nginx', version: ['-v'], command: nginx, removesCookie: true },
  { name: 'Caddy', version: ['version'], command: caddy, removesCookie: true },
  { name: 'Traefik', version: ['version'], command: traefik, removesCookie: false },
]

// Returns each proxy with its version, or `undefined` if it is not installed.
export function installedProxies() {
  return proxies.map((proxy) => {
    const file = proxy.name === 'nginx' ? 'nginx' : join(tools, 'venv/proxies/bin', proxy.name.toLowerCase())
    const binary = executable(file)
    const version = binary && versionOf(binary, proxy.version)
    const start = async (ports) => {
      const child = new Child(proxy.command(ports))
      await child.listens(ports.proxy)
    }
    return { ...proxy, version, start }
  })
}
